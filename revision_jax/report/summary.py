"""The report of an evaluation: its pictures and its page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from revision_jax.logs import read_metrics
from revision_jax.report import plots
from revision_jax.report.html import NO_PICTURES, write_report
from revision_jax.report.table import named_methods
from revision_jax.report.thumbnails import Thumbnails

SHOWN = 8  # queries in the timelines


def write_summary(
    place: tuple[Path, str],
    metrics: Mapping[str, Any],
    config: ConfigDict,
    cases: Sequence[plots.Timeline],
    thumbnails: Thumbnails = NO_PICTURES,
) -> Path:
    """Writes `*.png` and `report.html` into the evaluation's folder; returns the page's path.

    Args:
      place: the folder, in the run's work folder, and the suffix of the file names, "" or "_val".
      metrics: what `metrics.json` will hold.
      config: the run's.
      cases: every query; `choose_cases` takes those of the picture.
      thumbnails: of answers and truths, for the list of queries.
    """
    (folder, suffix), figures = place, []
    folder.mkdir(parents=True, exist_ok=True)
    steps, losses, validations = read_losses(folder.parent)
    if len(steps) > 1:
        plots.loss_curve(steps, losses, folder / "loss.png", validations)
        figures.append(("Training", folder / "loss.png", "Loss of the answers' tokens."))
    recalls = {name: scores["recall"]["mad"] for name, scores in named_methods(metrics).items() if scores["recall"]}
    if recalls:
        plots.recall_bars(recalls, folder / f"recall{suffix}.png")
        figures.append(("Recall", folder / f"recall{suffix}.png", "Present queries with a hit among their first k."))
    if cases:
        plots.timelines(choose_cases(cases), folder / f"timelines{suffix}.png")
        caption = "Left the whole video, right a close-up. The queries are taken at even distances from the split."
        figures.append(("Timelines", folder / f"timelines{suffix}.png", caption))
    page = folder / f"report{suffix}.html"
    write_report(page, metrics, config.to_dict(), figures, cases, thumbnails)
    return page


def choose_cases(cases: Sequence[plots.Timeline]) -> list[plots.Timeline]:
    """SHOWN queries at even distances, neither the best nor the worst; up to two of them with an absent event."""
    present, absent = [case for case in cases if case.truth], [case for case in cases if not case.truth]
    rejected = min(2, len(absent))
    return _spread(present, SHOWN - rejected) + _spread(absent, rejected)


def _spread(cases: Sequence, count: int) -> list:
    count = min(count, len(cases))
    return [cases[i * len(cases) // count] for i in range(count)]


def read_losses(workdir: Path) -> tuple[list[int], list[float], dict[int, float]]:
    """Steps and losses of `metrics.jsonl`, and the losses of validations by step; empty where there is none."""
    rows = read_metrics(workdir / "metrics.jsonl")
    trained = [row for row in rows if "loss" in row]
    validations = {row["step"]: row["val_loss"] for row in rows if "val_loss" in row}
    return [row["step"] for row in trained], [row["loss"] for row in trained], validations
