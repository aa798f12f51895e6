"""`report.html`: one page with all pictures in it, so that it can be mailed or moved."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from revision_jax.metrics.grounding import best_iou
from revision_jax.report.plots import Timeline
from revision_jax.report.table import (
    DETAIL_NOTE,
    LEVEL_NOTE,
    QUESTION_NOTE,
    clock,
    compared_rows,
    detail_rows,
    level_rows,
    method_name,
    question_rows,
    retrieval_rows,
    table_rows,
)

TEMPLATE = "report.html.j2"


def write_report(
    path: Path, metrics: Mapping, config: Mapping, figures: Sequence[tuple[str, Path, str]], cases: Sequence[Timeline]
) -> None:
    """Writes the page, whole or not at all.

    Args:
      metrics: what `metrics.json` holds.
      config: the run's config as plain values.
      figures: (heading, PNG file, caption); a picture is embedded, its file is not needed afterwards.
      cases: queries to list.
    """
    # Sentences come from data sets and users: everything is escaped.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    headings, rows = table_rows(metrics)
    more = [
        ("Questions of this stage", QUESTION_NOTE, *question_rows(metrics)),
        ("Retrieval among short videos", "Percent, but for the rank.", *retrieval_rows(metrics)),
        ("Sets of moments, calibration, cost", DETAIL_NOTE, *detail_rows(metrics)),
        ("Where the search goes", LEVEL_NOTE, *level_rows(metrics)),
        ("Differences, query by query", "Percent, with 95 % intervals.", *compared_rows(metrics)),
    ]
    cost = {name: scores.get("cost") for name, scores in metrics["methods"].items()}
    page = environment.get_template(TEMPLATE).render(
        title=f"revision_jax: {metrics['split']} split",
        summary=_summary(metrics),
        headings=headings,
        rows=rows,
        main=method_name(metrics["served"] or "depth1"),
        tables=[table for table in more if table[3]],
        figures=[(heading, _embedded(file), caption) for heading, file, caption in figures],
        queries=[_query(case) for case in cases],
        cost=json.dumps({key: metrics[key] for key in ("compilations", "measured")} | {"cost": cost}, indent=2),
        config=json.dumps(config, indent=2),
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


def _query(case: Timeline) -> dict[str, str]:
    sure = bool(case.moments) and case.moments[0][2] >= case.threshold
    return {
        "sentence": case.sentence,
        "truth": ", ".join(f"{clock(s)} – {clock(e)}" for s, e in case.truth) or "never",
        "answer": f"{clock(case.moments[0][0])} – {clock(case.moments[0][1])}" if sure else "not there",
        "confidence": f"{case.moments[0][2]:.2f}" if case.moments else "–",
        "iou": f"{best_iou(case.moments[:1], case.truth)[0]:.2f}" if case.truth and case.moments else "–",
    }
