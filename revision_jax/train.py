"""Train a stage, from data to an evaluated model: `python -m revision_jax.train --help`."""

import argparse
import functools
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
Several hosts: launch/*.sh. After SIGTERM a run saves, and leaves with exit code 75: start it again.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m revision_jax.train",
        usage="%(prog)s [--config FILE[:PRESET]] [--config.KEY=VALUE ...] [--workdir RUN] [--profile] [--debug]",
        description=__doc__.partition(":")[0] + ".",
        epilog=f"{USAGE}\n{configs.describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    configs.add_arguments(parser)
    parser.add_argument("--workdir", metavar="RUN", help="work folder (default: runs/CONFIG-PRESET)")
    parser.add_argument("--profile", action="store_true", help="write a trace of 5 steps to RUN/profile, for XProf")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, 2 after one clear error line, or 75 where the same command should be started again."""
    parser = make_parser()
    args, overrides = configs.parse(parser, argv)
    # Slow to import, and `--help` must be quick.
    from revision_jax.parallel.multihost import HungHost, leave_at_once
    from revision_jax.training.preemption import RESTART_CODE, Preempted

    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("revision_jax").setLevel(logging.INFO)
    try:
        config = configs.load(args.config, overrides)
        train(config, args.workdir or default_workdir(args.config), profile=args.profile)
    except Preempted as stop:
        print(stop, file=sys.stderr)
        return RESTART_CODE
    except HungHost as error:
        print(f"error: {error}", file=sys.stderr)
        leave_at_once(RESTART_CODE)
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
    from revision_jax.parallel.multihost import Disagreement, JoinError
    from revision_jax.training.loop import NonFiniteLoss

    # ImportError: PyTorch is optional, and a base in .bin files needs it.
    return (
        ValueError,
        OSError,
        ImportError,
        NotImplementedError,
        CheckpointError,
        NonFiniteLoss,
        Disagreement,
        JoinError,
    )


def train(config: ConfigDict, workdir: str | Path, *, profile: bool = False) -> dict:
    """One run, from data to the evaluation's metrics; several hosts train only, and evaluate afterwards."""
    # Slow to import, and `--help` must be quick.
    import jax

    from revision_jax.evaluate import evaluate
    from revision_jax.evaluation.questions import evaluate_held_out
    from revision_jax.interop.adapter import save_projector
    from revision_jax.parallel import multihost
    from revision_jax.parallel.mesh import host_shard, local_mesh, make_mesh
    from revision_jax.runs.grounder import check_weights
    from revision_jax.runs.splits import check_files, prepare_data
    from revision_jax.runs.tasks import make_task
    from revision_jax.training import loop
    from revision_jax.training.workdir import check_workdir

    # ------------------------------------------------------------------------------- what can go wrong early
    multihost.initialize()
    check_equal_hosts(config)
    check_workdir(workdir, config)
    check_files(config)
    check_weights(config)
    mesh = make_mesh(**config.mesh)

    # ------------------------------------------------------------------------------- data
    prepare = functools.partial(prepare_data, config, local_mesh(mesh), on_video=report_video)
    directories = multihost.one_after_another("data", prepare)

    # ------------------------------------------------------------------------------- train
    task = make_task(config, directories["train"], mesh)
    multihost.check_equal("files", {role: part["sha256"] for role, part in task.base.items()})
    multihost.check_shards(host_shard(mesh, config.train.batch_size))
    result = loop.run(config, workdir, task, profile=profile)
    if jax.process_count() > 1:
        log.info("evaluate on one host: python -m revision_jax.evaluate --workdir %s", workdir)
        return {}

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


def check_equal_hosts(config: ConfigDict) -> None:
    """Raises Disagreement unless all hosts have one config, one version of the code and of jax."""
    import jax

    from revision_jax.parallel import multihost

    multihost.check_equal("config", configs.flatten(config))
    multihost.check_equal("code", {"revision_jax": multihost.source_sha256(), "jax": jax.__version__})


def report_video(split: str, done: int, total: int) -> None:
    log.info("prepares %s: %d of %d videos", split, done, total)


if __name__ == "__main__":
    sys.exit(main())
