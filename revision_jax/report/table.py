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
POLICIES = {"bottom_up": "bottom-up", "top_down_rescaled": "rescaled", "fused": "fused with similarity"}
FIRST = ("clip", "depth0", "depth1")  # rows that stand before the deeper searches
# Column heading -> where its value stands in a method's scores.
COLUMNS = {
    "R1@.1": ("recall", "mad", "R1@0.1"),
    "R1@.3": ("recall", "mad", "R1@0.3"),
    "R1@.5": ("recall", "mad", "R1@0.5"),
    "R1@.7": ("recall", "mad", "R1@0.7"),
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
    "Percent; then tokens, GFLOP and frames of the language model, frames decoded and seconds an hour of video. Sets: "
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


def table_rows(metrics: Mapping) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of `metrics.json`: percentages but for the last column, seconds."""
    rows = []
    for name, scores in named_methods(metrics).items():
        rows.append([method_name(name)] + [_cell(scores, path) for path in COLUMNS.values()])
    return ["method", *COLUMNS], rows


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
    rows, columns = [], ("R1@0.3", "R5@0.3", "R1@0.5", "mean_iou")
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


def print_table(metrics: Mapping[str, Any]) -> None:
    """Prints the tables to the terminal: only those that hold something."""
    main = method_name(metrics["served"] or "depth1")
    protocol, split = metrics["protocol"], metrics["split"]
    counts = f"{metrics['present']} present and {metrics['absent']} absent queries, {metrics['videos']} videos"
    note = "Percent; a hit is IoU > theta. Absent queries count under rejection only."
    title = f"{split}: {counts}; protocol {protocol['name']} ({protocol['says']})"
    retrieval = metrics["retrieval"]
    for heading, caption, (headings, rows), marked in (
        (f"{split}: questions", QUESTION_NOTE, question_rows(metrics), ""),
        (f"{split}: {retrieval.get('queries')} queries, {retrieval.get('clips')} clips", "Percent, but for the rank.",
         retrieval_rows(metrics), ""),
        (title, note, table_rows(metrics), main),
        ("sets of moments, calibration, cost", DETAIL_NOTE, detail_rows(metrics), main),
        ("where the search goes", LEVEL_NOTE, level_rows(metrics), ""),
        ("differences, query by query, with 95 % intervals", "Percent.", compared_rows(metrics), ""),
    ):  # fmt: skip
        if rows:
            print_rows(heading, caption, headings, rows, marked)


def print_rows(title: str, note: str, headings: Sequence[str], rows: Sequence[Sequence[str]], main: str = "") -> None:
    """Prints one table; the row that begins with `main` is bold."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, caption=note)
    for i, heading in enumerate(headings):
        words = heading.replace(" ", "\n")  # a heading is never wider than its longest word
        table.add_column(words, justify="right" if i else "left", no_wrap=True, vertical="bottom")
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == main else None)
    console = Console()
    if not console.is_terminal:  # a pipe has no width; the table keeps its own
        console = Console(width=max(100, Console(width=1000).measure(table).maximum))
    console.print(table)


def print_files(folder: Path) -> None:
    """Prints the files of a folder and their sizes; of a folder in it the sum."""
    rows = []
    for path in sorted(folder.iterdir()):
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        rows.append([path.name + ("/" if path.is_dir() else ""), f"{size / 2**20:,.2f}"])
    print_rows(str(folder), "", ["file", "MiB"], rows)
