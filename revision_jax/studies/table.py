"""The table of a study, as rows of text: for the terminal, for Markdown and for the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from revision_jax.studies.columns import COLUMNS, NOTES

INTERVALS = (
    "Means over seeds with intervals of 95 %, which count seeds (Student's t) and, for shares of queries, the queries "
    "(Wilson): both half widths, added in squares, and cut where no value can be. Parameters: trained ones that the "
    "search needs. Steps and minutes: of all stages behind a row, shared ones too, for a seed; then of its evaluation, "
    "by the clock."
)


def table_rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows."""
    paper = [f"paper ({results['paper']})"] if any(row["paper"] for row in results["rows"]) else []
    headings = ["row", *results["columns"], "seeds", "parameters", "steps", "minutes", *paper]
    return headings, [_row(row, results["columns"], bool(paper)) for row in results["rows"]]


def _row(row: Mapping[str, Any], columns: Sequence[str], paper: bool) -> list[str]:
    cells = [row["name"], *(cell(row["values"][name], COLUMNS[name].decimals) for name in columns), str(row["seeds"])]
    cells += ["–" if row[name] is None else f"{row[name]:,}" for name in ("parameters", "steps")]
    train, evaluate = row["minutes"]["train"], row["minutes"]["evaluate"]
    cells.append("–" if train is None else f"{train:.1f} + {evaluate:.1f}")
    return cells + ([row["paper"] or "–"] if paper else [])


def cell(value: Mapping[str, Any] | None, decimals: int) -> str:
    """`80.7 (76.1 to 84.4)`."""
    if value is None:
        return "–"
    tell = lambda number: f"{number:,.{decimals}f}"
    known = value["low"] is not None
    return tell(value["mean"]) + (f" ({tell(value['low'])} to {tell(value['high'])})" if known else "")


def seed_rows(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of every seed, with the folder of its evaluation."""
    rows = []
    for row in results["rows"]:
        whole = [seed for seed, found in row["by_seed"].items() if "error" not in found]
        for place, seed in enumerate(whole):
            values = [(row["values"][name] or {}).get("by_seed") for name in results["columns"]]
            cells = [
                "–" if found is None else f"{found[place]:,.{COLUMNS[name].decimals}f}"
                for name, found in zip(results["columns"], values)
            ]
            rows.append([row["name"], seed, *cells, row["by_seed"][seed]["evaluation"]["folder"]])
    return ["row", "seed", *results["columns"], "evaluation"], rows


def notes(results: Mapping[str, Any]) -> list[str]:
    """What the columns are, where their names do not say it."""
    return [f"{name}: {NOTES[name]}." for name in results["columns"] if name in NOTES]


def errors(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(row and seed, error) of what failed."""
    return [
        (f"{row['name']}, seed {seed}", found["error"])
        for row in results["rows"]
        for seed, found in row["by_seed"].items()
        if "error" in found
    ]


def source(results: Mapping[str, Any]) -> str:
    """Where the numbers come from, in a line; what was joined has a sentence of its own."""
    here = [_source(results["here"], results)] if results["here"] else []
    told = here + [_source(one["seeds"], one) for one in results["joined"]]
    return f"Config {results['config_sha256'][:12]}. " + " ".join(told)


def _source(seeds: Sequence[int], given: Mapping[str, Any]) -> str:
    machine, commit = given["machine"], given["commit"] or "none (no checkout)"
    return (
        f"Seeds {', '.join(map(str, seeds))}; commit {commit}; {machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['devices']}; "
        + ", ".join(f"{name} {version}" for name, version in given["versions"].items())
        + "."
    )


def markdown(results: Mapping[str, Any], command: str) -> str:
    """The table as a Markdown file."""
    headings, rows = table_rows(results)
    line = lambda cells: "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |"
    table = [line(headings), "|" + "---|" * len(headings), *map(line, rows)]
    parts = [f"# {results['study']}", results["question"], f"`{command}`", source(results), "\n".join(table)]
    parts += [INTERVALS, *notes(results)]
    failed = errors(results)
    if failed:
        first_lines = [(name, text.partition("\n")[0]) for name, text in failed]
        parts.append("Failed:\n\n" + "\n".join(f"- {name}: {line}" for name, line in first_lines))
    return "\n\n".join(parts) + "\n"
