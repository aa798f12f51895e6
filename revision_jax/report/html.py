"""`report.html`: one page with all that it shows in it, so that it can be mailed or moved."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from revision_jax.report import drawings
from revision_jax.report.outcomes import (
    OUTCOMES,
    TOP,
    failures_first,
    in_words,
    localisation_rows,
    loss_rows,
    outcome,
    overlaps,
)
from revision_jax.report.plots import Timeline
from revision_jax.report.table import (
    BUDGET_NOTE,
    DETAIL_NOTE,
    LEVEL_NOTE,
    QUESTION_NOTE,
    budget_rows,
    compared_rows,
    detail_rows,
    hit_note,
    level_rows,
    method_name,
    question_rows,
    retrieval_rows,
    table_rows,
)
from revision_jax.report.thumbnails import Moment, Thumbnails, answer_moment, truth_moment

TEMPLATE = "report.html.j2"
LOSS_NOTE = "Queries of the scored method; percent of those whose event happens, of refusals and alarms of the others."
OFF_NOTE = "First answers that are right (IoU > .3): tenth, half and nine tenths of them are off by less."
ALARM_NOTE = "Answered, percent: green, of the events that happen; red, of those that do not (false alarms)."
LARGE = 1e300
NO_PICTURES = Thumbnails()
FAILURES = len(OUTCOMES) - 2


def write_report(
    path: Path,
    metrics: Mapping,
    config: Mapping,
    figures: Sequence[tuple[str, Path, str]],
    cases: Sequence[Timeline],
    thumbnails: Thumbnails = NO_PICTURES,
) -> None:
    """Writes the page, whole or not at all.

    Args:
      metrics: what `metrics.json` holds.
      config: the run's config as plain values.
      figures: (heading, PNG file, caption); a picture is embedded, its file is not needed afterwards.
      cases: every query; the page lists them, failures first.
      thumbnails: pictures of first answers and truths that the list shows.
    """
    # Sentences come from data sets and users: everything is escaped.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    headings, rows = table_rows(metrics)
    more = [
        ("What became of the queries", LOSS_NOTE, ["outcome", "that is", "queries", "%"], loss_rows(cases)),
        ("How far right answers are off", OFF_NOTE, ["", "10 %", "median", "90 %"], localisation_rows(cases)),
        ("Questions of this stage", QUESTION_NOTE, *question_rows(metrics)),
        ("Retrieval among short videos", "Percent, but for the rank.", *retrieval_rows(metrics)),
        ("Sets of moments, calibration, cost", DETAIL_NOTE, *detail_rows(metrics)),
        ("Where the search goes", LEVEL_NOTE, *level_rows(metrics)),
        ("Ways to spend the budget", BUDGET_NOTE, *budget_rows(metrics)),
        ("Differences, query by query", "Percent, with 95 % intervals.", *compared_rows(metrics)),
    ]
    page = environment.get_template(TEMPLATE).render(
        title=f"revision_jax: {metrics['split']} split",
        summary=_summary(metrics),
        headings=headings,
        rows=rows,
        hit=hit_note(metrics),
        main=method_name(metrics["served"] or "depth1"),
        tables=[table for table in more if table[3]],
        figures=[(heading, _embedded(file), caption) for heading, file, caption in figures],
        words=in_words(cases),
        panels=_panels(metrics, cases),
        queries=island(cases, thumbnails.pictures) if cases else "",
        pictures=thumbnails.told,
        top=TOP,
        cost=_cost(metrics),
        config=_flat(config),
    )
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(page, encoding="utf-8")
    os.replace(partial, path)


def _summary(metrics: Mapping) -> str:
    device, protocol, parts = metrics["measured"]["device"], metrics["protocol"], []
    if metrics["queries"]:
        parts.append(
            f"{metrics['videos']} videos, {metrics['present']} queries whose event is present and {metrics['absent']} "
            f"whose event never happens; protocol {protocol['name']}: {protocol['says']}"
        )
    parts.append(f"stage {metrics['stage']}, {metrics['train_steps']} steps")
    parts.append(f"{metrics['measured']['seconds']:.0f} s on {device['count']} x {device['kind']}")
    return "; ".join(parts) + "."


def _embedded(file: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(Path(file).read_bytes()).decode()


def _panels(metrics: Mapping, cases: Sequence[Timeline]) -> list[tuple[str, str, str]]:
    """(heading, SVG, note) of what can be drawn."""
    scores = metrics["methods"].get(metrics["served"] or "depth1", {})
    hits = (scores.get("recall") or {}).get((metrics.get("table") or {}).get("hit", "mad"), {})
    bounds = scores.get("intervals", {})
    known = [name for name in ("R1@0.3", "R5@0.3", "R1@0.5") if name in hits and None not in bounds.get(name, [None])]
    bins = scores.get("calibration", {}).get("0.3", {}).get("bins")
    points = [(name, hits[name], *bounds[name]) for name in known]
    panels = [
        ("Recall", drawings.intervals(points) if points else "", "Events found among the first k answers."),
        ("Can its confidence be believed?", drawings.reliability(bins) if bins else "", "On the line: yes."),
        ("False alarms against the threshold", drawings.alarms(cases), ALARM_NOTE),
    ]  # fmt: skip
    return [panel for panel in panels if panel[1]]


def island(cases: Sequence[Timeline], pictures: Mapping[Moment, bytes] = {}) -> str:
    """The queries as JSON that is safe within `<script>`: ASCII without `<`, `>`, `&`.

    Args:
      pictures: JPEGs by moment; each is held once, rows name it by its number.
    """
    numbers = {moment: number for number, moment in enumerate(pictures)}
    videos = {case.video_id: case.duration_s for case in cases}
    places = {name: i for i, name in enumerate(videos)}
    kinds = {name: i for i, name in enumerate(OUTCOMES)}
    methods = dict.fromkeys(name for case in cases for name in case.levels)
    rows = []
    for case in failures_first(cases):
        levels = [[name, _rounded(moments[:1])] for name, moments in case.levels.items() if len(moments)]
        levels += [["", _rounded(case.moments[:TOP])]] if len(case.moments) else []
        found, lost = overlaps(case), [i for i, held in enumerate(case.held, 1) if not held]
        truth = [[round(start, 1), round(end, 1)] for start, end in case.truth]
        iou = round(float(found[0]), 2) if len(found) else None
        told = f"level {lost[0]} of {len(case.held)}" if lost else ""
        shown = [numbers.get(moment, -1) for moment in (answer_moment(case), truth_moment(case))]
        row = [case.sentence, places[case.video_id], truth, levels, kinds[outcome(case)], iou, told]
        rows.append([*row, shown] if max(shown) >= 0 else row)
    threshold = _finite(cases[0].threshold)
    data: dict[str, Any] = {
        "videos": list(videos.items()), "outcomes": [*OUTCOMES], "failures": FAILURES, "rows": rows,
        "names": {name: method_name(name) for name in methods} | {"": "answers"}, "threshold": threshold,
        "pictures": [base64.b64encode(picture).decode() for picture in pictures.values()],
    }  # fmt: skip
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return "".join(f"\\u{ord(c):04x}" if c in "<>&" else c for c in text)


def _rounded(moments: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[round(start, 1), round(end, 1), _finite(float(f"{sure:.3g}"))] for start, end, sure in moments]


def _finite(value: float) -> float:
    return min(max(value, -LARGE), LARGE)  # JSON has no infinity


def _cost(metrics: Mapping) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a row a counter, a column a method; then what the whole took."""
    costs = {name: scores["cost"] for name, scores in metrics["methods"].items() if scores.get("cost")}
    names = dict.fromkeys(name for cost in costs.values() for name, value in cost.items() if _is_number(value))
    rows = [[name.replace("_", " "), *(_number(cost.get(name)) for cost in costs.values())] for name in names]
    headings = ["", *map(method_name, costs)] if costs else ["", "whole evaluation"]
    whole = _flat({"compiled": metrics["compilations"], "measured": metrics["measured"]})
    rows += [[name, value, *[""] * (len(headings) - 2)] for name, value in whole]
    return headings, rows


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _flat(values: Mapping, prefix: str = "") -> list[list[str]]:
    """(dotted key, text) of nested values."""
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            measured = isinstance(value, float) and prefix.startswith("measured")
            rows.append([f"{prefix}{key}", _number(value) if measured else str(value)])
    return rows
