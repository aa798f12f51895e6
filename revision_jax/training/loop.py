"""The train loop, one for every stage. `run` reads top to bottom in the order in which a run happens."""

import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from revision_jax.checkpoint import Checkpoints
from revision_jax.checkpoint_record import Meta
from revision_jax.parallel import multihost
from revision_jax.parallel.memory import check_memory, device_limit, held
from revision_jax.parallel.mesh import check_batch, host_rows, host_shard, make_mesh, put_batch
from revision_jax.training.examples import Example, read_examples
from revision_jax.training.flops import FlopCount, peak_flops
from revision_jax.training.optimizer import describe_table
from revision_jax.training.preemption import Preempted, Preemption
from revision_jax.training.profile import Profile
from revision_jax.training.progress import Progress
from revision_jax.training.state import (
    Arrays,
    Module,
    TrainState,
    init_state,
    place,
    split_by_table,
    take_apart,
)
from revision_jax.training.step import compile_answers, compile_step, compile_validation, make_fixed
from revision_jax.training.task import Task
from revision_jax.training.workdir import FREE, MetricsLog, open_workdir

log = logging.getLogger(__name__)


class NonFiniteLoss(RuntimeError):
    """The loss or the gradient is NaN or infinite."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a run keeps from start to end.

    Attributes:
      module: the model's structure; frozen: its arrays that are not trained.
      step_fn, validate_fn, answer_fn: the jitted steps.
      mesh: the devices.
      flops: what a step costs.
    """

    module: Module
    frozen: Arrays
    step_fn: Callable
    validate_fn: Callable
    answer_fn: Callable
    mesh: jax.sharding.Mesh
    flops: FlopCount


@dataclasses.dataclass(frozen=True)
class Session:
    """One start of a run: what it trains, and where it reads and writes."""

    config: ConfigDict
    workdir: Path
    task: Task
    setup: Setup
    iterator: Iterator
    checkpoints: Checkpoints


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
      model: with its trained parameters, on the mesh; with `train.keep_best` those of the best step.
      mesh: the devices.
      first_step, last_step: updates done before and after this start.
      compilations: of the train step: one a kind of batch that was met, 0 when there was nothing left to do.
      batch_shapes: kinds of batches that were met, by their shapes.
    """

    model: nnx.Module
    mesh: jax.sharding.Mesh
    first_step: int
    last_step: int
    compilations: int
    batch_shapes: int


def run(config: ConfigDict, workdir: str | Path, task: Task, *, profile: bool = False) -> Result:
    """Trains `task` to the end, from its newest checkpoint if the work folder has one.

    Args:
      profile: writes a trace of a few steps into the work folder.

    Raises:
      ConfigError: the work folder belongs to another config.
      CheckpointError: a checkpoint cannot be written, or was trained on other frozen files.
      NonFiniteLoss: names the step and the batch's records.
      Preempted: the machine is being taken away; everything is saved, the same command goes on.
      HungHost: another host did not come to a log line in time; names it.
    """
    # ------------------------------------------------------------------------- work folder, devices
    workdir = open_workdir(workdir, config)
    mesh = make_mesh(**config.mesh)
    check_batches(config, mesh)

    with jax.set_mesh(mesh):
        # --------------------------------------------------------------------- model, optimizer
        setup, state = build(config, task, mesh)

        # --------------------------------------------------------------------- resume
        iterator = iter(task.batches)
        with open_checkpoints(config, workdir, task) as checkpoints:
            state = resume(state, iterator, checkpoints)
            first = int(state.step)
            session = Session(config, workdir, task, setup, iterator, checkpoints)

            # ----------------------------------------------------------------- train
            with Preemption() as preemption, Profile(workdir / "profile", first, enabled=profile) as tracing:
                state, shapes = train(session, state, preemption, tracing)

            # ----------------------------------------------------------------- done
            last, trained = int(state.step), state.trainable
            if config.train.keep_best:
                best, trained = checkpoints.restore_params(trained, best=True)
                log.info("the weights of step %d have the lowest validation loss", best)
        model = setup.module.merge(trained, setup.frozen)
    return Result(model, mesh, first, last, setup.step_fn.compile_count, len(shapes))


def check_batches(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Raises ValueError, naming the field, unless batches of each kind split evenly over the mesh."""
    for name in ("batch_size", "group_batch_size"):
        check_batch(mesh, config.train[name], f"train.{name}", config.train.accumulate)


def open_checkpoints(config: ConfigDict, workdir: Path, task: Task) -> Checkpoints:
    """The checkpoints of a run, to go on from and to write."""
    every = config.train
    return Checkpoints(
        workdir / "checkpoints", Meta(config.to_dict(), task.base), keep=every.keep_checkpoints,
        keep_best=every.keep_best, free=FREE,
    )  # fmt: skip


def total_steps(config: ConfigDict, task: Task) -> int:
    """`train.steps`, or `train.epochs` passes over the data."""
    return config.train.steps or config.train.epochs * task.epoch_batches


def build(config: ConfigDict, task: Task, mesh: jax.sharding.Mesh) -> tuple[Setup, TrainState]:
    """What a run keeps, and its fresh state, everything in its place on the mesh."""
    module, arrays = take_apart(task.model)
    shardings = module.shardings(mesh)
    trainable, frozen, multipliers = split_by_table(arrays, config.trainable)
    fixed = make_fixed(config, module, multipliers, task.prefix, total_steps(config, task))
    state, where = init_state(trainable, fixed.optimizer, shardings, mesh)
    flops = FlopCount({path: array.shape for path, array in arrays.items()}, set(trainable), len(task.prefix))
    frozen = place(frozen, shardings)
    parts = {"frozen weights": held(frozen), "trained": held(state.trainable), "optimizer": held(state.opt_state)}
    memory = check_memory(parts, mesh.shape, device_limit())
    log.info("%s\nmesh %s\n%s", describe_table(arrays, config.trainable), dict(mesh.shape), memory)
    steps = compile_step(fixed, where), compile_validation(fixed), compile_answers(fixed, mesh)
    return Setup(module, frozen, *steps, mesh, flops), state


def resume(state: TrainState, iterator: Iterator, checkpoints: Checkpoints) -> TrainState:
    """The newest checkpoint's state, `iterator` moved to its place; `state` itself when there is none."""
    found = checkpoints.restore(state.trainable, (state.opt_state, state.step), iterator)
    if found is None:
        return state
    step, trainable, (opt_state, count) = found
    log.info("resumes from step %d", step)
    return TrainState(trainable, opt_state, count)


def train(
    session: Session, state: TrainState, preemption: Preemption, tracing: Profile
) -> tuple[TrainState, set[tuple]]:
    """Steps until all are done; also the shapes of the batches met.

    The host waits for the device only where it logs.
    """
    task, setup, every = session.task, session.setup, session.config.train
    first, last = int(state.step), total_steps(session.config, task)
    peak = peak_flops(jax.devices()[0].device_kind)
    metrics_log = MetricsLog(session.workdir, first, session.config)
    progress = Progress(first, last, peak=peak and peak * setup.mesh.size, stage=session.config.stage)
    shapes, hosts = set(), host_shard(setup.mesh, every.batch_size)[1]
    pending = []  # (step, record ids, metrics still on the device) since the last log
    try:
        for step in range(first + 1, last + 1):
            with progress.waiting_for_data():
                batch = next_batch(session.iterator, step)
            records = batch.pop("record_id")
            shapes.add(tuple(sorted((name, array.shape) for name, array in batch.items())))
            progress.count(*batch_size(batch, len(task.prefix)), setup.flops.step(batch), times=hosts)
            with tracing.step(step):
                batch = put_batch(batch, setup.mesh)
                state, metrics = setup.step_fn(state, batch, setup.frozen)
            tracing.done(step, metrics)
            pending.append((step, records, metrics))
            taken, validation = preemption.reached(step), None
            if step % every.log_every == 0 or step == last or taken:
                multihost.meet(f"step {step}")
                logged, failure = fetch(pending, task.describe_record, every.skip_nonfinite)
                metrics_log.write(logged, progress.update([row for row in logged if "loss" in row]))
                if failure:
                    raise NonFiniteLoss(failure)
                pending = []
            if task.validation and (step % every.eval_every == 0 or step == last):
                validation = validate(session, state.trainable)
                metrics_log.write_validation(step, validation)
                metrics_log.show(step, answer_examples(session, state.trainable))
                progress.tell_validation(step, validation)
            if step % every.checkpoint_every == 0 or step == last or taken:
                save(session, state, validation)
            if taken and (step < last or preemption.interrupted):
                session.checkpoints.wait()
                multihost.meet(f"leaving after step {step}")  # launchers kill all once one has left
                raise Preempted(step, interrupted=preemption.interrupted)
    finally:
        progress.close()
        metrics_log.close()
    return state, shapes


def save(session: Session, state: TrainState, validation: dict[str, float] | None) -> None:
    """Starts to write a checkpoint, with its validation loss if there is one."""
    loss = None if validation is None else validation["val_loss"]
    session.checkpoints.save(
        int(state.step), state.trainable, (state.opt_state, state.step), session.iterator, val_loss=loss
    )


def validate(session: Session, trainable: Arrays) -> dict[str, float]:
    """`val_loss` (nats a token) and `val_accuracy` of the answers' tokens of at most `eval.max_rows` held-out rows."""
    config, setup = session.config, session.setup
    hosts, sums = host_shard(setup.mesh, config.train.batch_size)[1], []
    for batches in session.task.validation:
        number, count = 0, len(batches)
        while number < count:
            batch = {name: array for name, array in batches[number].items() if name != "record_id"}
            count = min(count, max(config.eval.max_rows // (len(batch["tokens"]) * hosts), 1))
            sums.append(setup.validate_fn(trainable, put_batch(batch, setup.mesh), setup.frozen))
            number += 1
    total = {name: sum(float(each[name]) for each in jax.device_get(sums)) for name in ("loss", "right", "tokens")}
    return {"val_loss": total["loss"] / total["tokens"], "val_accuracy": total["right"] / total["tokens"]}


def answer_examples(session: Session, trainable: Arrays) -> list[Example]:
    """What the model answers to the first held-out rows of each kind; empty where the task does not say how to tell."""
    setup, readers, found = session.setup, session.task.readers, []
    for number, batches in enumerate(session.task.validation if readers else ()):
        batch = dict(batches[0])
        seen = put_batch({name: array for name, array in batch.items() if name != "record_id"}, setup.mesh)
        answers = np.asarray(setup.answer_fn(trainable, seen, setup.frozen))
        found += read_examples(readers, number, batch, answers[host_rows(setup.mesh, len(answers))])
    return found


def batch_size(batch: dict[str, np.ndarray], prefix: int) -> tuple[int, int]:
    """Windows of a batch, and its tokens through the language model: prefix, a frame or a window each, texts."""
    rows, length = batch["video"].shape[:2]  # [B, F, D], or [B, n, F, D] for groups of n windows
    windows = rows * (length if batch["video"].ndim == 4 else 1)
    return windows, rows * (prefix + length) + batch["tokens"].size


def next_batch(iterator: Iterator, step: int) -> dict[str, np.ndarray]:
    try:
        return dict(next(iterator))
    except StopIteration:
        raise RuntimeError(f"the data ended before step {step}; expected an endless data set.") from None


def fetch(
    pending: list[tuple], describe: Callable[[int], str], skippable: int = 0
) -> tuple[list[dict[str, float]], str | None]:
    """Waits for the device: rows of the steps before the first non-finite one, and what went wrong there.

    Args:
      skippable: non-finite steps that a run may leave out (`train.skip_nonfinite`); such a step has a row with the
        number of them so far, and no loss.
    """
    rows = []
    values = jax.device_get([metrics for _, _, metrics in pending])
    for (step, records, _), metrics in zip(pending, values):
        row = {"step": step} | {key: float(value) for key, value in metrics.items()}
        skipped = int(row.pop("skipped", 0))
        bad = [key for key in ("loss", "grad_norm") if not math.isfinite(row[key])]
        if bad:
            named = "\n  ".join(describe(int(record)) for record in records)
            what = f"step {step}: {bad[0]} is {row[bad[0]]}. The records of its batch:\n  {named}"
            if skipped > skippable or not skipped:
                return rows, f"{what}\nLook for broken features among them. {_how_to_go_on(skippable)}"
            log.warning("%s\nIt is left out, %d of at most %d (train.skip_nonfinite)", what, skipped, skippable)
            row = {"step": step, "skipped": skipped}
        rows.append(row)
    return rows, None


def _how_to_go_on(skippable: int) -> str:
    return (
        f"The same command with --config.train.skip_nonfinite={max(2 * skippable, 10)} goes on from the last "
        f"checkpoint and leaves out up to so many such steps. Of the config may also change: "
        f"{', '.join(FREE)}. Any other field, such as train.learning_rate, needs another --workdir."
    )
