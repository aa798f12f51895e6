"""One evaluation for every stage: the same options, the same form of `metrics.json`; what is scored differs.

A stage's row names its evaluators. Each fills its part of the metrics; parts that a stage does not have stay empty.
docs/data.md describes every field.
"""

import functools
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from revision_jax.config import ConfigError
from revision_jax.disk import room_in
from revision_jax.evaluation.captions import Captions
from revision_jax.evaluation.clips import ClipSearch
from revision_jax.evaluation.evaluator import Evaluation, Evaluator, file_path
from revision_jax.evaluation.moments import MomentSearch
from revision_jax.evaluation.options import DEFAULT, Options
from revision_jax.evaluation.peak import peak_memory
from revision_jax.evaluation.pictures import make_thumbnails
from revision_jax.evaluation.protocols import PROTOCOLS
from revision_jax.evaluation.questions import GroupQuestions, PresenceQuestions
from revision_jax.evaluation.watched import watch
from revision_jax.files import plain, read_json, write_json
from revision_jax.parallel import multihost
from revision_jax.report.summary import write_summary
from revision_jax.report.table import print_table
from revision_jax.runs.run import Run
from revision_jax.runs.splits import other_split, splits_of

VERSION = 5  # of metrics.json
log = logging.getLogger(__name__)


EVALUATORS: dict[str, Evaluator] = {
    "search": MomentSearch(),
    "clips": ClipSearch(),
    "captions": Captions(),
    "presence": PresenceQuestions(),
    "groups": GroupQuestions(),
}


def evaluators_of(run: Run) -> list[Evaluator]:
    """What scores a run: its stage's evaluators; short videos are ranked, where a search of one video would look."""
    ranked = {"search": "clips"} if run.config.data.groups == "videos" else {}
    return [EVALUATORS[ranked.get(name, name)] for name in run.stage.evaluators]


def evaluate(run: Run, options: Options = DEFAULT, *, compilations: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Scores a run, prints its tables, and writes everything into its work folder.

    Args:
      run: trained; its predecessors must be there.
      options: see `Options`.
      compilations: of the train step, `{"programs", "shapes"}`, to be kept with the search's.

    Returns:
      what `metrics.json` holds. Every score is a percentage. A repeated or resumed evaluation gives the same, but for
      what stands under `measured` and `compilations`.

    Raises:
      ConfigError: an option that the stage cannot honour, or missing data.
      FolderInUse: another evaluation writes to the same folder.
      FullDisk: names the folder.
    """
    started = time.perf_counter()
    evaluators = evaluators_of(run)
    honoured = frozenset().union(*(one.honours for one in evaluators))
    options.check(honoured, f"a run of stage {run.stage.name!r}")
    split, directories = _directories(run, options, any(one.chooses_on_val for one in evaluators))
    path = file_path(run.workdir / options.out, "metrics.json", split)
    evaluation = Evaluation(run, options, split, directories, read_json(path) or {})
    metrics, cases = _empty(evaluation), []
    with multihost.alone_in(evaluation.folder), jax.set_mesh(run.mesh):
        for one in evaluators:
            found = one(evaluation)
            cases += found.cases
            for name, part in found.metrics.items():
                metrics[name] = metrics[name] | part if isinstance(metrics[name], dict) and metrics[name] else part
    metrics["compilations"] = _compilations(evaluation, metrics["compilations"], compilations)
    metrics["measured"] = {
        "seconds": time.perf_counter() - started,
        "device": {"kind": run.mesh.devices.flat[0].device_kind, "count": run.mesh.devices.size},
        "hosts": jax.process_count(),
        **peak_memory(run.mesh),
    }
    metrics = plain(metrics)
    step = run.steps  # of every host: they meet where the checkpoints are opened
    if multihost.is_first():
        suffix = evaluation.path("report.html").stem.removeprefix("report")
        with room_in(evaluation.folder):
            thumbnails = make_thumbnails(directories[split], cases)
            report = write_summary((evaluation.folder, suffix), metrics, run.config, cases, thumbnails)
            write_json(evaluation.path("metrics.json"), metrics)  # the last: it says that all the rest is there
        watch(evaluation, step, metrics, cases)
        print_table(metrics)
        log.info("report: %s", report)
    return metrics


def _directories(run: Run, options: Options, chooses: bool) -> tuple[str, dict[str, Path]]:
    """The split that is scored, and the directories of it and of val where something is chosen there."""
    split = options.split or run.config.eval.split
    wanted = ({"val"} if chooses else set()) | (set() if options.data else {split})
    lacking = sorted(wanted - set(splits_of(run.config)))
    if lacking:
        missing = ", ".join(lacking)
        raise ConfigError(f"data.name {run.config.data.name!r} has no split {missing}; nothing can be scored.")
    prepare = functools.partial(run.directories, sorted(wanted))
    directories = dict(multihost.one_after_another("data", prepare)) if wanted else {}
    if options.data:
        split, path = other_split(run.config, options.data)
        directories[split] = path
    return split, directories


def _empty(evaluation: Evaluation) -> dict[str, Any]:
    """The form of `metrics.json`, with nothing scored."""
    run = evaluation.run
    return {
        "version": VERSION,
        "stage": run.stage.name,
        "split": evaluation.split,
        "data": {},
        "train_steps": run.steps,
        "protocol": {"name": evaluation.options.protocol, "says": PROTOCOLS[evaluation.options.protocol].says},
        "levels": list(run.config.hierarchy.levels),
        "trained_parameters": None,
        "videos": 0,
        "queries": 0,
        "present": 0,
        "absent": 0,
        "served": None,
        "budget": None,
        "table": {},
        "questions": {},
        "methods": {},
        "diagnosis": None,
        "compared": [],
        "calibration": {},
        "others": {},
        "retrieval": {},
        "before": {},
        "compilations": {},
    }


def _compilations(
    evaluation: Evaluation, counted: Mapping[str, Any], train: Mapping[str, int] | None
) -> dict[str, Any]:  # fmt: skip
    """Programs compiled; where nothing had to be computed again, what was counted when it was stands."""
    old = evaluation.old.get("compilations", {})
    fresh = {"train_step": train if train and train["programs"] else None, **counted}
    used = lambda value: value["programs"] if isinstance(value, Mapping) else value
    known = {name: value for name, value in fresh.items() if value and used(value)}
    return {"train_step": None, "search": None, "encoder": None, "questions": None} | old | known
