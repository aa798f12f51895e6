"""Trains the stages of a row that are not there yet, mines answers where a stage learns from them, and evaluates.

A stage's folder holds `trained.json` once its training is whole, an evaluation's folder `scored.json`: what has one is
not done again. What was begun goes on.
"""

import logging
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from revision_jax.config import differences, flatten, load_json
from revision_jax.evaluation.evaluate import evaluate
from revision_jax.evaluation.evaluator import file_path
from revision_jax.evaluation.options import Options
from revision_jax.files import read_json, write_json
from revision_jax.logs import SEAL
from revision_jax.parallel import multihost
from revision_jax.runs import training
from revision_jax.runs.run import Run
from revision_jax.runs.splits import other_split, prepare_data
from revision_jax.studies import facts
from revision_jax.studies.columns import WARM
from revision_jax.studies.grid import MINED, Chain, Link
from revision_jax.text import read_jsonl

TRAINED, SCORED = "trained.json", "scored.json"
log = logging.getLogger(__name__)


def trained(link: Link) -> dict[str, Any] | None:
    """What `trained.json` says of a whole training; None where there is none."""
    said = read_json(link.folder / TRAINED)
    return said if said and said.get("whole") and said["key"] == link.key else None


def scored(chain: Chain) -> dict[str, Any] | None:
    """What `scored.json` says: the whole `metrics.json`, minutes, and the commit; None where there is none."""
    return read_json(chain.folder / SCORED)


# ------------------------------------------------------------------------------------------------- training
def train(link: Link) -> dict[str, Any]:
    """Trains a stage whose predecessors are there, or does nothing; what `trained.json` says."""
    if said := trained(link):
        return said
    if link.mines is not None and not link.mines.answers.is_file():
        mine(link.mines)
    return _timed(link, link.folder / TRAINED, lambda: _train(link))


def _train(link: Link) -> dict[str, Any]:
    run = Run(link.config, link.folder)
    training.check_early(run)
    with multihost.alone_in(run.workdir):
        result = training.train(run, training.prepare(run))
    return {"steps": result.last_step, "parameters": run.trained_parameters}


def _timed(link: Link, path: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Does some work and writes what it says, with the minutes of this and of earlier starts that were cut short."""
    old, started = read_json(path) or {}, time.perf_counter()
    said = {"key": link.key, "commit": facts.commit(), "whole": False}
    try:
        said |= work() | {"whole": True}
    finally:
        said["minutes"] = old.get("minutes", 0.0) + (time.perf_counter() - started) / 60
        link.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, said)
    return said


def mine(link: Link) -> None:
    """Writes a run's answers about its train split to `link.answers`."""
    directory = prepare_data(link.config, splits=("train",))["train"]
    split, _ = other_split(link.config, directory)
    evaluate(_loaded(link), Options(data=str(directory), out=MINED, methods=("depth1",)))
    predictions = file_path(link.folder / MINED, "predictions.jsonl", split)
    partial = link.answers.with_name(link.answers.name + ".tmp")
    shutil.copyfile(predictions, partial)
    partial.replace(link.answers)


# ------------------------------------------------------------------------------------------------- evaluation
def score(chain: Chain) -> dict[str, Any]:
    """Evaluates the last stage of a chain, or does nothing; what `scored.json` says."""
    if said := scored(chain):
        return said
    scoring, last, started = chain.row.scoring, chain.links[-1], time.perf_counter()
    run = _loaded(last)
    directory = ""
    if scoring.data:
        split = chain.scored_by.eval.split
        directory = str(prepare_data(chain.scored_by, run.mesh, splits=(split,))[split])
    changed = differences(load_json(last.folder / "config.json"), chain.scored_by)
    search = {key.removeprefix("search."): new for key, (_, new) in changed.items() if key.startswith("search.")}
    options = Options(
        data=directory, out=chain.folder.name, search=search, methods=scoring.methods, queries=scoring.queries
    )
    metrics = evaluate(run, options)
    for method, scores in metrics["methods"].items():
        scores[WARM] = warm_seconds(chain.folder, metrics["split"], method)
    said = {"commit": facts.commit(), "minutes": (time.perf_counter() - started) / 60, "metrics": metrics}
    write_json(chain.folder / SCORED, said)
    return said


def _loaded(link: Link) -> Run:
    """The trained run, on the devices that are there, with this call's fields of the evaluation."""
    ours = {key: value for key, value in flatten(link.config).items() if key.startswith("eval.")}
    return Run.load(link.folder, ours)


def warm_seconds(folder: Path, split: str, method: str) -> float | None:
    """Seconds a query of a measured method, the median over videos; None where it has no log (CLIP's best frame)."""
    rates = []
    for name in ("predictions.jsonl", "predictions_upper.jsonl"):
        path = file_path(folder, name, split)
        rows = read_jsonl(path) if path.is_file() else []
        rates += [row["cost"]["seconds"] / row["queries"] for row in rows if _closes(row, method)]
    return statistics.median(rates) if rates else None


def _closes(row: Mapping[str, Any], method: str) -> bool:
    """Whether a line of a log closes the queries of a video, asked by a method."""
    return SEAL in row and row.get("method") == method


def forget_programs() -> None:
    """Compiled programs of a row are not those of the next: dozens of runs in one process would add up."""
    jax.clear_caches()
