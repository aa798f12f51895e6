"""Train a stage, from data to an evaluated model: `python -m revision_jax.train --help`."""

import argparse
import logging
import sys
from pathlib import Path

from ml_collections import ConfigDict

from revision_jax import config as configs

log = logging.getLogger("revision_jax.train")  # `__name__` is `__main__` for the verb
PROJECTOR = "projector.safetensors"  # what the align stage leaves in its work folder
USAGE = """
Examples:
  python -m revision_jax.train                                        the embedded default (tiny), no download
  python -m revision_jax.train --workdir runs/short --config.train.steps=50
  python -m revision_jax.train --config configs/stage1_sparse.py      the next stage, then configs/stage2.py
  python -m revision_jax.train --config configs/stage1.py:mad ...     says which files the 7B run needs

The same command again resumes a stopped run from its newest checkpoint. The work folder holds config.json,
metrics.jsonl, TensorBoard events, checkpoints/ and eval/ (metrics.json, predictions.jsonl, report.html).
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m revision_jax.train",
        usage="%(prog)s [--config FILE[:PRESET]] [--config.KEY=VALUE ...] [--workdir RUN] [--debug]",
        description=__doc__.partition(":")[0] + ".",
        epilog=f"{USAGE}\n{configs.describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    configs.add_arguments(parser)
    parser.add_argument("--workdir", metavar="RUN", help="work folder (default: runs/CONFIG-PRESET)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 after one clear error line."""
    parser = make_parser()
    args, overrides = configs.parse(parser, argv)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("revision_jax").setLevel(logging.INFO)
    try:
        config = configs.load(args.config, overrides)
        train(config, args.workdir or default_workdir(args.config))
    except user_errors() as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def default_workdir(spec: str) -> Path:
    """`configs/stage1.py:mad` -> `runs/stage1-mad`."""
    path, _, preset = spec.partition(":")
    return Path("runs") / f"{Path(path).stem}-{preset or configs.presets(path)[0]}"


def user_errors() -> tuple[type[Exception], ...]:
    """Errors that a person can mend: told in one line, without a traceback."""
    from revision_jax.checkpoint import CheckpointError
    from revision_jax.training.loop import NonFiniteLoss

    return (ValueError, OSError, NotImplementedError, CheckpointError, NonFiniteLoss)


def train(config: ConfigDict, workdir: str | Path) -> dict:
    """One run, from data to the evaluation's metrics."""
    # Slow to import, and `--help` must be quick.
    from revision_jax.evaluate import evaluate
    from revision_jax.evaluation.held_out import evaluate_held_out
    from revision_jax.interop.adapter import save_projector
    from revision_jax.parallel import multihost
    from revision_jax.parallel.mesh import make_mesh
    from revision_jax.training import loop
    from revision_jax.training.datasets import check_files, prepare_data
    from revision_jax.training.stages import make_task
    from revision_jax.training.workdir import check_workdir

    # ------------------------------------------------------------------------------- what can go wrong early
    multihost.initialize()
    check_workdir(workdir, config)
    check_files(config)
    mesh = make_mesh(**config.mesh)

    # ------------------------------------------------------------------------------- data
    directories = prepare_data(config, mesh, on_video=report_video)

    # ------------------------------------------------------------------------------- train
    task = make_task(config, directories["train"], mesh)
    result = loop.run(config, workdir, task)

    # ------------------------------------------------------------------------------- evaluate
    shared = {"directories": directories, "mesh": mesh, "before": task.model if config.eval.before else None}
    if config.stage != "dense":
        if config.stage == "align":
            save_projector(result.model.adapter, Path(workdir) / PROJECTOR)
            log.info("give it to the next stage: --config.base.projector=%s", Path(workdir) / PROJECTOR)
        return evaluate_held_out(
            config,
            workdir,
            result.model,
            steps=result.last_step,
            compilations={"programs": result.compilations, "shapes": result.batch_shapes},
            **shared,
        )
    return evaluate(config, workdir, result.model, train_compilations=result.compilations or None, **shared)


def report_video(split: str, done: int, total: int) -> None:
    log.info("prepares %s: %d of %d videos", split, done, total)


if __name__ == "__main__":
    sys.exit(main())
