"""A run's training: its task put together from the stage's row, checks before anything is read, the loop."""

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from revision_jax.config import ConfigError, flatten
from revision_jax.data.batches.streams import Stream, join
from revision_jax.fingerprints import fingerprint
from revision_jax.interop.adapter import save_projector
from revision_jax.parallel import multihost
from revision_jax.parallel.memory import check_host, host_limit
from revision_jax.parallel.mesh import host_shard, local_mesh
from revision_jax.runs.base import missing_base, report_missing
from revision_jax.runs.batches import BatchKind, Source, streams_of
from revision_jax.runs.grounder import check_weights
from revision_jax.runs.predecessors import missing_predecessors
from revision_jax.runs.run import Run
from revision_jax.runs.splits import missing_data, prepare_data, splits_of
from revision_jax.runs.stage import stage_of
from revision_jax.training import loop
from revision_jax.training.examples import Readers
from revision_jax.training.state import take_apart
from revision_jax.training.task import Task
from revision_jax.training.tracker import check_tracker
from revision_jax.training.workdir import check_workdir

PROJECTOR = "projector.safetensors"  # what a stage that trains the dense adapter leaves in its work folder
log = logging.getLogger(__name__)


def wanted_splits(run: Run) -> tuple[str, ...]:
    """The splits that a training reads, and the evaluation behind it, of those that its data set has."""
    wanted = {"train"}
    if run.config.train.eval_every:
        wanted.add("val")
    if run.config.eval.after_training:
        # A threshold is chosen on val; to rank short videos, none is.
        chooses = run.stage.answers and run.config.data.groups != "videos"
        wanted |= {run.config.eval.split} | ({"val"} if chooses else set())
    return tuple(split for split in splits_of(run.config) if split in wanted)


def check_files(config: ConfigDict, splits: Sequence[str]) -> None:
    """Raises ConfigError that lists all files a run needs and does not find, and how they are made."""
    stage_files = missing_base(config, stage_of(config).draws) + missing_predecessors(config)
    report_missing(stage_files + missing_data(config, tuple(splits)))


def can_be_scored(run: Run) -> bool:
    """Whether its data set has the split that an evaluation scores."""
    return run.config.eval.split in splits_of(run.config)


def check_equal_hosts(config: ConfigDict) -> None:
    """Raises Disagreement unless all hosts have one config, one version of the code and of jax."""
    multihost.check_equal("config", flatten(config))
    multihost.check_equal("code", {"revision_jax": multihost.source_sha256(), "jax": jax.__version__})


def check_early(run: Run) -> None:
    """What can go wrong before data is made for hours: the work folder, missing and damaged files."""
    check_workdir(run.workdir, run.config)
    check_tracker(run.config.track)
    check_files(run.config, wanted_splits(run))
    check_weights(run.config)


def prepare(run: Run) -> Mapping[str, Path]:
    """Split -> data set directory, made by one host after another where they are made."""
    make = functools.partial(
        prepare_data, run.config, local_mesh(run.mesh), splits=wanted_splits(run), on_video=_report_video
    )
    return multihost.one_after_another("data", make)


def check_room(run: Run) -> int:
    """Whether weights and batches can be held in this host's memory, before any is made; the width of a frame.

    Raises:
      ValueError: they cannot; with a table of both.
    """
    config, abstract = run.config, run.grounder("abstract")
    shapes = [kind.shapes(config, run.mesh, abstract.visual_width) for kind in run.stage.batches]
    sizes = [
        sum(array.size * array.dtype.itemsize for array in batch.values()) for kind in shapes for batch in kind.values()
    ]
    parts = {"batches": 2 * max(sizes) // multihost.count()}  # one is read while another is used
    if run.mesh.devices.flat[0].platform == "cpu":  # other devices have their own memory, `loop.build` looks at it
        _, arrays = take_apart(abstract)
        parts["weights"] = sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays.values())
    check_host(parts, host_limit())
    return abstract.visual_width


def make_task(run: Run, directories: Mapping[str, Path]) -> Task:
    """The stage's model, batches and files; of `val` the batches of a validation, where the config wants one."""
    config, kinds = run.config, run.stage.batches
    width = check_room(run)
    open_source = lambda split: Source(config, run.prompts, run.mesh, directories[split], width, split)
    source = open_source("train")
    pipeline = join(streams_of(kinds, source), read_threads=config.data.read_threads, prefetch=config.data.prefetch)
    held_out = _validation(config, kinds, open_source("val")) if config.train.eval_every else []
    data: dict[str, dict[str, str]] = {}
    for path in source.files(kinds):  # of a mixture, the first split goes by its files' names
        role = str(path) if path.name in data else path.name
        data[role] = {"path": str(path), "sha256": fingerprint(path)}
    return Task(
        model=run.grounder("fresh"),  # the last: a base LLM of 13 GB is not read for data that cannot be used
        prefix=run.prompts.prefix,
        batches=pipeline.batches,
        epoch_batches=pipeline.epoch_batches,
        describe_record=pipeline.describe_record,
        base=run.fingerprints | data,
        validation=[stream.batches for stream in held_out],
        readers=_readers(run, held_out),
    )


def _readers(run: Run, held_out: Sequence[Stream]) -> Readers:
    """How a held-out row is told: record ids count the rows of all streams in turn."""
    places, tokenizer = len(held_out), run.prompts.tokenizer
    describe = [lambda record, tell=stream.describe_record: tell(record // places) for stream in held_out]
    return Readers(describe, tokenizer.decode, run.prompts.eos_id)


def _validation(config: ConfigDict, kinds: Sequence[BatchKind], val: Source) -> list[Stream]:
    """The held-out streams.

    Raises:
      ConfigError: the split cannot be used, or gives less than a batch.
    """
    try:
        return [stream for streams in streams_of(kinds, val) for stream in streams]
    except ValueError as error:
        raise ConfigError(
            f"train.eval_every is {config.train.eval_every}, but val in {val.directory} cannot be used: {error}"
        ) from error


def train(run: Run, directories: Mapping[str, Path], *, profile: bool = False) -> loop.Result:
    """Trains a run to its end; see `loop.run`."""
    task = make_task(run, directories)
    multihost.check_equal("files", {role: part["sha256"] for role, part in task.base.items()})
    multihost.check_shards(host_shard(run.mesh, run.config.train.batch_size))
    result = loop.run(run.config, run.workdir, task, profile=profile)
    if "projector" in run.stage.draws and result.model.adapter is not None and multihost.is_first():
        save_projector(result.model.adapter, run.workdir / PROJECTOR)
        log.info("give it to the next stage: --config.base.projector=%s", run.workdir / PROJECTOR)
    return result


def _report_video(split: str, done: int, total: int) -> None:
    log.info("prepares %s: %d of %d videos", split, done, total)
