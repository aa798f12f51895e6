"""Train a stage, from data to an evaluated model: `python -m revision_jax.train --help`."""

import argparse
import logging
import sys
from pathlib import Path

from ml_collections import ConfigDict

from revision_jax import config as configs
from revision_jax import lazy, verb

evaluation = lazy.module("revision_jax.evaluation.evaluate")
memory = lazy.module("revision_jax.parallel.memory")
multihost = lazy.module("revision_jax.parallel.multihost")
runs = lazy.module("revision_jax.runs.run")
sizing = lazy.module("revision_jax.runs.sizing")
training = lazy.module("revision_jax.runs.training")

log = logging.getLogger("revision_jax.train")  # `__name__` is `__main__` for the verb
USAGE = """
Examples:
  python -m revision_jax.train                                        the embedded default (tiny), no download
  python -m revision_jax.train --workdir runs/short --config.train.steps=50
  python -m revision_jax.train --config.train.eval_every=100 --config.train.keep_best=true      validated on the way
  python -m revision_jax.train --config configs/stage1_sparse.py      the next stage, then configs/stage2.py
  python -m revision_jax.train --config configs/stage1.py:folder --config.data.dir=DIR     your data, sized by it
  python -m revision_jax.train --config configs/stage1.py:mad ...     says which files the 7B run needs

The same command again resumes a stopped run from its newest checkpoint. Fields that do not change what is learned
(train.accumulate, model.remat, mesh.*, search.*, eval.*, intervals, threads) may differ then; others are refused. The
work folder holds config.json, metrics.jsonl, TensorBoard events, checkpoints/ and eval/ (metrics.json,
predictions.jsonl, report.html). Several hosts: launch/*.sh. After SIGTERM a run saves, and leaves with exit code 75:
start it again.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = verb.make_parser(
        "train", __doc__, f"{USAGE}\n{configs.describe()}",
        "%(prog)s [--config FILE[:PRESET]] [--config.KEY=VALUE ...] [--workdir RUN] [--profile] [--debug]",
    )  # fmt: skip
    verb.add_config(parser, configs.DEFAULT)
    parser.add_argument("--workdir", metavar="RUN", help="work folder (default: runs/CONFIG-PRESET)")
    parser.add_argument("--profile", action="store_true", help="write a trace of 5 steps to RUN/profile, for XProf")
    verb.add_unknown(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, 2 after one clear error line, or 75 where the same command should be started again."""
    return verb.run(act, verb.parse(make_parser(), argv, ["config"]))


def act(args: argparse.Namespace) -> None:
    config = sizing.load(args.config, args.fields)
    train(config, args.workdir or default_workdir(args.config), profile=args.profile)


def default_workdir(spec: str) -> Path:
    """`configs/stage1.py:mad` -> `runs/stage1-mad`."""
    path, _, preset = spec.partition(":")
    return Path("runs") / f"{Path(path).stem}-{preset or configs.presets(path)[0]}"


def train(config: ConfigDict, workdir: str | Path, *, profile: bool = False) -> dict:
    """One run, from data to the evaluation's metrics, {} where nothing is evaluated.

    Several hosts train only, and evaluate afterwards.
    """
    memory.keep_freed_memory()
    multihost.initialize()
    training.check_equal_hosts(config)
    run = runs.Run(config, workdir)
    training.check_early(run)
    with multihost.alone_in(run.workdir):
        result = training.train(run, training.prepare(run), profile=profile)
    if multihost.count() > 1:
        if multihost.is_first():
            log.info("evaluate, on as many hosts as you like: python -m revision_jax.evaluate --workdir %s", workdir)
        return {}
    if not config.eval.after_training or not training.can_be_scored(run):
        return {}
    compilations = {"programs": result.compilations, "shapes": result.batch_shapes}
    return evaluation.evaluate(run.with_trained(result.model), compilations=compilations)


if __name__ == "__main__":
    sys.exit(main())
