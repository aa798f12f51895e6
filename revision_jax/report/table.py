"""The table of an evaluation, as rows of text: one source for the terminal and for the page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAMES = {
    "depth1": "all windows (depth 1)",
    "depth0": "one pass (depth 0)",
    "clip": "CLIP frame retrieval",
    "before": "before training",
    "before_depth0": "before training, one pass",
    "depth2": "one upper level (depth 2)",
    "depth3": "two upper levels (depth 3)",
    "depth1_retrieve_then_ground": "similar windows only",
}
POLICIES = {
    "bottom_up": "bottom-up", "top_down_rescaled": "rescaled", "fused": "fused with similarity",
    "cascade": "shortlist by similarity",
}  # fmt: skip
FIRST = ("clip", "depth0", "depth1")  # rows that stand before the deeper searches
# Column heading -> where its value stands in a method's scores.
COLUMNS = {
    "R1@.1": ("recall", "mad", "R1@0.1"),
    "R1@.3": ("recall", "mad", "R1@0.3"),
    "R1@.5": ("recall", "mad", "R1@0.5"),
    "R1@.7": ("recall", "mad", "R1@0.7"),
    "R1@.9": ("recall", "mad", "R1@0.9"),
    "R5@.3": ("recall", "mad", "R5@0.3"),
    "R10@.3": ("recall", "mad", "R10@0.3"),
    "R50@.3": ("recall", "mad", "R50@0.3"),
    "mIoU": ("mean_iou",),
    "false alarms": ("rejection", "false_alarm_rate"),
    "reject F1": ("rejection", "f1"),
    "AUROC": ("rejection", "auroc"),
    "frames": ("cost", "frame_share"),
    "s/query": ("measured", "seconds_per_query"),
}
# What decides, first: the terminal's table holds these alone unless `--wide` asks for all, and fits 80 columns.
DECIDING = ("R1@.3", "R5@.3")
BESIDE = ("false alarms", "frames", "s/query")
NAME_WIDTH = 30  # of a table's first column; longer names, and longer words in other columns, are broken
LEAST_WIDTH = 15  # of a column with such words
# Columns of `--wide`, and of data whose papers report them.
WIDE = {name: ("average_precision", name.replace("@.", "@0.")) for name in ("mAP@.5", "mAP@.75", "mAP")}
# The same of the second table: sets of moments, calibration, cost.
DETAILS = {
    "count": ("sets", "count_accuracy"),
    "F1@.5": ("sets", "F1@0.5"),
    "union IoU": ("sets", "union_iou"),
    "ECE@.3": ("calibration", "0.3", "ece"),
    "AUROC@.3": ("calibration", "0.3", "auroc"),
    "LLM tokens/query": ("cost", "llm_tokens_per_query"),
    "GFLOP/query": ("cost", "gflops_per_query"),
    "frames/query": ("cost", "frames_to_llm_per_query"),
    "frames decoded/h": ("cost", "frames_decoded_per_hour"),
    "s/h": ("measured", "seconds_per_hour"),
}


LEVEL_NOTE = "Percent. An event is among the windows if one of them holds more than half of it."
DETAIL_NOTE = (
    "Percent; then tokens, GFLOP and frames of the language model, frames decoded and seconds an hour of video (– of a "
    "method that took answers that another had asked for). Sets: "
    "moments at or above the threshold. ECE and AUROC: is the first moment right (IoU > .3)?"
)


def method_name(method: str) -> str:
    """The printed name of a method of `metrics.json`."""
    if method in NAMES:
        return NAMES[method]
    depth, _, policy = method.removeprefix("depth").partition("_")
    return f"depth {depth}, {POLICIES.get(policy, policy)}" if policy and depth.isdigit() else method


def clock(seconds: float) -> str:
    """`h:mm:ss`, to the nearest second."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def named_methods(metrics: Mapping) -> dict[str, Mapping]:
    """All rows of the table: CLIP, before training, then this model, deeper and deeper. Method -> scores."""
    before, after = metrics.get("before") or {}, metrics["methods"]
    rows = {"clip": after.get("clip"), "before_depth0": before.get("depth0"), "before": before.get("depth1")}
    rows |= {method: after.get(method) for method in (*FIRST[1:], *(name for name in after if name not in FIRST))}
    return {name: scores for name, scores in rows.items() if scores}


def shown(scores: Sequence[str], hit: str, wide: bool) -> dict[str, Any]:
    """What the tables of an evaluation show: `table` of `metrics.json`.

    Args:
      scores: the columns that papers on the scored data report, instead of recall and mIoU; none = all columns.
      hit: whether IoU = theta is a hit ("ge") or not ("mad"): a key of `recall`.
      wide: also the columns of `WIDE`; the terminal shows all columns, not the deciding ones alone.
    """
    own = [name for name, path in COLUMNS.items() if path[0] not in ("recall", "mean_iou")] if scores else [*COLUMNS]
    columns = list(dict.fromkeys([*scores, *own, *(WIDE if wide else ())]))
    return {"hit": hit, "columns": columns, "first": [*(scores or DECIDING)[:2], *BESIDE], "wide": wide}


def hit_note(metrics: Mapping) -> str:
    """`a hit is IoU > theta`, as the scored data has it."""
    return "a hit is IoU >= theta" if (metrics.get("table") or {}).get("hit") == "ge" else "a hit is IoU > theta"


def _columns(metrics: Mapping) -> dict[str, tuple[str, ...]]:
    """Column heading -> where its value stands in a method's scores."""
    table = metrics.get("table") or {"hit": "mad", "columns": [*COLUMNS]}
    places = {}
    for name in table["columns"]:
        recall = ("recall", table["hit"], name.replace("@.", "@0."))
        known = {**COLUMNS, **WIDE}.get(name, recall)
        places[name] = recall if known[0] == "recall" else known
    return places


def table_rows(metrics: Mapping) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of `metrics.json`: percentages but for the last column, seconds."""
    rows, columns = [], _columns(metrics)
    for name, scores in named_methods(metrics).items():
        rows.append([method_name(name)] + [_cell(scores, path) for path in columns.values()])
    return ["method", *columns], rows


def first_rows(metrics: Mapping) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the columns that decide; see `shown`."""
    headings, rows = table_rows(metrics)
    wanted = (metrics.get("table") or {}).get("first") or [*DECIDING, *BESIDE]
    places = [0, *(headings.index(name) for name in wanted)]
    return [headings[i] for i in places], [[row[i] for i in places] for row in rows]


def detail_rows(metrics: Mapping) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of sets, calibration and cost; and R@1 at IoU .3 with its 95 % interval."""
    rows = []
    for name, scores in named_methods(metrics).items():
        interval = scores.get("intervals", {}).get("R1@0.3")
        told = "–" if not interval or None in interval else f"{interval[0]:.1f} to {interval[1]:.1f}"
        rows.append([method_name(name), told] + [_cell(scores, path) for path in DETAILS.values()])
    return ["method", "R1@.3, 95 %", *DETAILS], rows


def compared_rows(metrics: Mapping) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of differences between methods, with their intervals."""
    rows, columns = [], ["R1@0.3", "R5@0.3", "R1@0.5", "mean_iou"] + ["mAP"] * ("mAP" in _columns(metrics))
    for pair in metrics.get("compared", []):
        names = " minus ".join(method_name(name) for name in pair["methods"])
        cells = [(pair[column]["difference"], *pair[column]["interval"]) for column in columns]
        rows.append([names, *("–" if None in c else f"{c[0]:+.1f} ({c[1]:+.1f} to {c[2]:+.1f})" for c in cells)])
    return ["difference", *columns], rows


def _cell(scores: Mapping, path: tuple[str, ...]) -> str:
    value = scores
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.2f}" if path[-1] == "seconds_per_query" else f"{value:.1f}"


def level_rows(metrics: Mapping) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of what the upper levels sent down; no rows for a search without upper levels."""
    rows = []
    for method, scores in metrics["methods"].items():
        levels = scores.get("search", [])
        sizes = [f"groups of {size}" for size in metrics["levels"]][-len(levels) :]
        if method.startswith("depth1"):  # no upper level chose
            sizes = ["similarity"]
        for name, level in zip(sizes, levels):
            rows.append([method_name(method), name, f"{level['sent']:.1f}", f"{level['recall']:.1f}"])
    return ["method", "level", "windows sent down", "events among them"], rows


BUDGET_NOTE = "On val. The first was chosen: it finds most, of equals with the fewest tokens. Keep: coarse first."


def budget_rows(metrics: Mapping) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the ways to spend a budget that were tried, the chosen one first; none without a budget."""
    budget = metrics.get("budget") or {"chosen": None, "tried": []}
    rows = []
    for way in sorted(budget["tried"], key=lambda way: way != budget["chosen"]):
        name = method_name(f"depth{way['depth']}" + (f"_{way['policy']}" if way["policy"] != "top_down" else ""))
        shares = ", ".join(f"{share:.3g}" for share in way["keep"][-max(way["depth"] - 1, 1) :])
        shares += f" of {way['shortlist']:.3g}" if way["policy"] == "cascade" else ""
        rows.append([name, shares, f"{way['R1@0.3']:.1f}", f"{way['frame_share']:.1f}"])
        rows[-1].append(f"{way['llm_tokens_per_query']:,.0f}")
    return ["method", "keep", "R1@.3", "frames", "LLM tokens/query"], rows


QUESTION_NOTE = "A stage's own questions about held-out rows; percent, but for losses and counts."
RANKS = ("R@1", "R@5", "R@10", "median_rank", "chance_R@1")


def question_rows(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a stage's own questions: a row a score, with a column for the model before training."""
    models = [name for name in ("trained", "before") if any(name in found for found in metrics["questions"].values())]
    rows = []
    for question, found in metrics["questions"].items():
        values = {model: dict(_leaves(found.get(model, {}))) for model in models}
        for score in dict.fromkeys(score for model in models for score in values[model]):
            rows.append([f"{question}: {score}", *(_number(values[model].get(score)) for model in models)])
    names = {"trained": "trained", "before": "before training"}
    return ["question", *(names[model] for model in models)], rows


def _leaves(scores: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    leaves = []
    for key, value in scores.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        leaves += _leaves(value, f"{name}, ") if isinstance(value, Mapping) else [(name, value)]
    return leaves


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def retrieval_rows(metrics: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of retrieval among short videos."""
    methods = metrics["retrieval"].get("methods", {})
    rows = [[method_name(name), *(f"{row[rank]:.1f}" for rank in RANKS)] for name, row in methods.items()]
    return ["method", *RANKS], rows


def _first_note(metrics: Mapping, headings: Sequence[str]) -> str:
    """What the deciding columns are, in words."""
    ranked = [name for name in headings if name.startswith("R") and "@" in name]
    each = [f"{name}: one of the first {name[1 : name.index('@')]} answers is right" for name in ranked]
    each = [text.replace("one of the first 1 answers", "the first answer") for text in each]
    theta = hit_note(metrics).replace("a hit is ", "").replace("theta", "the number behind @")
    return (
        f"Percent of the events that happen; {'; '.join(each)} ({theta}). False alarms: percent of the events that do "
        "not happen and are answered all the same. Frames: percent of the video that the language model saw. s/query: "
        "seconds; – of a method that took answers that another had asked for (--methods). All columns: --wide."
    )


def print_table(metrics: Mapping[str, Any]) -> None:
    """Prints the tables to the terminal: only those that hold something, and what decides unless all is asked for."""
    main = method_name(metrics["served"] or "depth1")
    protocol, split = metrics["protocol"], metrics["split"]
    counts = f"{metrics['present']} present and {metrics['absent']} absent queries, {metrics['videos']} videos"
    title = f"{split}: {counts}; protocol {protocol['name']} ({protocol['says']})"
    retrieval = metrics["retrieval"]
    if (metrics.get("table") or {}).get("wide"):
        note = f"Percent; {hit_note(metrics)}. Absent queries count under rejection only."
        scored = [
            (title, note, table_rows(metrics), main),
            ("sets of moments, calibration, cost", DETAIL_NOTE, detail_rows(metrics), main),
        ]
        compared = compared_rows(metrics)
    else:
        first, (names, differences) = first_rows(metrics), compared_rows(metrics)
        scored = [(title, _first_note(metrics, first[0]), first, main)]
        compared = names[:2], [row[:2] for row in differences]
    for heading, caption, (headings, rows), marked in (
        (f"{split}: questions", QUESTION_NOTE, question_rows(metrics), ""),
        (f"{split}: {retrieval.get('queries')} queries, {retrieval.get('clips')} clips", "Percent, but for the rank.",
         retrieval_rows(metrics), ""),
        *scored,
        ("where the search goes", LEVEL_NOTE, level_rows(metrics), ""),
        ("ways to spend the budget", BUDGET_NOTE, budget_rows(metrics), ""),
        ("differences, query by query, with 95 % intervals", "Percent.", compared, ""),
    ):  # fmt: skip
        if rows:
            print_rows(heading, caption, headings, rows, marked)
    if metrics.get("diagnosis") is not None:
        print_diagnosis(metrics["diagnosis"])


def print_diagnosis(diagnosis: Mapping[str, Any]) -> None:
    """Prints what fails, in 80 columns; see `evaluation.diagnosis`."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console() if Console().is_terminal else Console(width=80)
    console.print(Text(f"diagnosis of {method_name(diagnosis['method'])}", style="bold"))
    if not diagnosis["signs"]:
        nothing = "Too few events to tell." if diagnosis["too_few"] else "No signature of failure."
        console.print(Padding(Text(nothing), (0, 0, 0, 2)))
    for sign in diagnosis["signs"]:
        console.print(Padding(Text(sign["name"], style="bold"), (0, 0, 0, 2)))
        console.print(Padding(Text(f"{sign['evidence']}\n{sign['remedy']}"), (0, 0, 0, 4)))


def print_rows(title: str, note: str, headings: Sequence[str], rows: Sequence[Sequence[str]], main: str = "") -> None:
    """Prints one table, the row that begins with `main` in bold; all of it is text, never markup.

    Names and whatever is longer than `NAME_WIDTH` are broken. In a pipe, which has no width, the table has 80 columns,
    or as many as its numbers need.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), caption=Text(note))
    longest = [max((len(row[i]) for row in rows), default=0) for i in range(len(headings))]
    for i, heading in enumerate(headings):
        words = Text(heading.replace(" ", "\n"))  # a heading is never wider than its longest word
        if not i:
            table.add_column(words, max_width=NAME_WIDTH, overflow="fold", vertical="bottom")
        elif longest[i] > NAME_WIDTH:
            table.add_column(words, overflow="fold", vertical="bottom")
        else:
            table.add_column(words, justify="right", no_wrap=True, vertical="bottom")
    for row in rows:
        table.add_row(*map(Text, row), style="bold" if row[0] == main else None)
    console = Console()
    if not console.is_terminal:
        broken = sum(length - LEAST_WIDTH for length in longest[1:] if length > NAME_WIDTH)
        console = Console(width=max(80, Console(width=100_000).measure(table).maximum - broken))
    console.print(table)


def print_files(folder: Path) -> None:
    """Prints the files of a folder and their sizes; of a folder in it the sum."""
    rows = []
    for path in sorted(folder.iterdir()):
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        rows.append([path.name + ("/" if path.is_dir() else ""), f"{size / 2**20:,.2f}"])
    print_rows(str(folder), "", ["file", "MiB"], rows)
