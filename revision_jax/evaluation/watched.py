"""What the trackers of a run see of an evaluation: its scores, some answers against the truth, and their timelines."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from revision_jax.config import ConfigError
from revision_jax.evaluation.evaluator import Evaluation
from revision_jax.report.outcomes import outcome
from revision_jax.report.plots import Timeline
from revision_jax.report.summary import choose_cases
from revision_jax.report.table import clock, named_methods
from revision_jax.training.tracker import check_tracker, open_trackers

log = logging.getLogger(__name__)


def watch(evaluation: Evaluation, step: int, metrics: Mapping[str, Any], cases: Sequence[Timeline]) -> None:
    """Writes to the trackers; after the report, whose picture is shown.

    Names begin as `eval/test/`, with the folder and the split of the evaluation.

    Args:
      step: of the training, at which the scores stand: `run.steps`.
    """
    run, config = evaluation.run, evaluation.run.config
    try:
        check_tracker(config.track)
    except ConfigError as error:
        log.warning("the evaluation is written to TensorBoard's events alone: %s", error)
        config = None
    place = f"{evaluation.options.out}/{evaluation.split}"
    picture = evaluation.path("timelines.png")
    for tracker in open_trackers(run.workdir, step, config):
        tracker.write(step, {f"{place}/{name}": value for name, value in _scores(metrics).items()})
        if cases and picture.is_file():
            tracker.write_text(step, f"{place}/answers", _table(choose_cases(cases)))
            tracker.write_image(step, f"{place}/timelines", np.asarray(Image.open(picture).convert("RGB")))
        tracker.close()


def _scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """`depth1/R1@0.3` -> percent; also of retrieval and of a stage's own questions."""
    recalls = {name: scores["recall"]["mad"] for name, scores in named_methods(metrics).items() if scores["recall"]}
    return dict(_numbers(recalls | metrics["retrieval"].get("methods", {}) | metrics["questions"]))


def _numbers(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{place}{name}/")
        elif value is not None:
            yield f"{place}{name}", float(value)


def _table(cases: Sequence[Timeline]) -> str:
    """Markdown: what was asked, when it happens, the first answer, what became of it."""
    cell = lambda text: text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    span = lambda moment: f"{clock(moment[0])} to {clock(moment[1])}"
    rows = []
    for case in cases:
        truth = ", ".join(map(span, case.truth)) or "never"
        told = f"{span(case.moments[0])} ({case.moments[0][2]:.3g})" if len(case.moments) else "none"
        rows.append(f"| {cell(case.sentence)} | {truth} | {told} | {outcome(case)} |")
    return "\n".join(["| query | truth | first answer (confidence) | outcome |", "|---|---|---|---|", *rows])
