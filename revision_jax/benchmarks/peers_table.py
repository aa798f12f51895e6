"""docs/benchmarks.json as the table of docs/benchmarks.md, between two markers."""

from collections.abc import Mapping
from typing import Any

PAGE = "benchmarks.md"
BEGIN, END = "<!-- peers: made from benchmarks.json by revision_jax.benchmarks.all -->", "<!-- peers end -->"
HEAD = ("work", "unit", "ours", "peer", "the peer's", "times as fast", "command")
NOTHING = "Not measured yet: `python -m revision_jax.benchmarks.all --fast` puts the table here."


def render(found: Mapping[str, Any] | None) -> str:
    """The lines between the markers: where it was measured, the table, the commands; None is no measurement."""
    if found is None:
        return NOTHING
    about, reports = found["machine"], found["reports"]
    libraries = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"`{found['command']}`, {found['date']}, {found['seconds']:.0f} s: {about['processor']}, {about['cores']} "
        f"cores, {about['memory_gib']} GiB, load {about['load']} at the start; {libraries}.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---" * len(HEAD) + "|",
        *(_line(row, number) for number, report in enumerate(reports, 1) for row in report["beside"]),
        "",
        *(f"{number}. `{report['command']}` ({report['seconds']:.0f} s)" for number, report in enumerate(reports, 1)),
    ]
    return "\n".join(lines)


def _line(row: Mapping[str, Any], command: int) -> str:
    cells = (row["work"], row["unit"], _spread(row["ours"]), row["peer_is"], _spread(row["peer"]))
    return "| " + " | ".join((*cells, _spread(row["ratio"]), str(command))) + " |"


def _spread(found: Mapping[str, float]) -> str:
    """Median, and in brackets the least and the most."""
    return f"{found['median']:g} ({found['least']:g} to {found['most']:g})"


def with_table(page: str, found: Mapping[str, Any] | None) -> str:
    """A page with what `render` gives between its markers.

    Raises:
      ValueError: the page has not one pair of markers.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(END) < page.index(BEGIN):
        raise ValueError(f"{PAGE} has no place for the table; expected once the lines\n{BEGIN}\n{END}")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{render(found)}\n\n{END}{rest.partition(END)[2]}"
