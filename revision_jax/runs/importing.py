"""A published stage directory, or a LoRA of PEFT, as a run: a config and a checkpoint that hold what it trained."""

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from revision_jax.checkpoint import Checkpoints
from revision_jax.checkpoint_record import Meta
from revision_jax.config import ConfigError, resolve_path
from revision_jax.interop.check import Comparison, compare
from revision_jax.interop.grounder_check import Parts, fixed_input, grounder_logits
from revision_jax.interop.stage import PROJECTOR, Stage, adapter_arrays, read_stage, write_unified
from revision_jax.interop.weights import Weights
from revision_jax.runs.base import llama_config, make_prompts
from revision_jax.runs.formats import adapter_of, sparse_options
from revision_jax.runs.grounder import fingerprints, trained_by_predecessors
from revision_jax.runs.parts import UNIFIED, restore_parts, shapes_and_fresh
from revision_jax.runs.predecessors import check_lora
from revision_jax.runs.stage import stage_of
from revision_jax.training.state import split_by_table
from revision_jax.training.workdir import open_workdir

log = logging.getLogger(__name__)


def import_stage(config: ConfigDict, source: Path, workdir: Path, mesh: Mesh) -> None:
    """Fills a work folder with what a stage directory trained.

    What the stage did not train must be what the config names (`base.projector`, `init.*`): it is compared. Variant U's
    adapter, which has no module here, goes beside the checkpoint as `UNIFIED`, and out again with an export.

    Raises:
      ConfigError: parts that are missing there, or differ from those that the config names.
      ValueError: tensors that do not fit, listed.
    """
    shapes, arrays = shapes_and_fresh(config, mesh)
    stage = read_stage(source, llama_config(config), **sparse_options(config))
    check_lora(config, stage.lora.config, source)
    trainable, _, _ = split_by_table(shapes, config.trainable)
    found = stage_arrays(stage)
    if isinstance(stage.trained, Mapping):
        save_file(write_unified(stage.trained), workdir / UNIFIED)
        log.warning("variant U's adapter is kept in %s; this project has no module that runs it", UNIFIED)
    missing = [path for path in trainable if path not in found]
    if missing:
        raise ConfigError(f"{source} does not hold {missing}, which stage {config.stage!r} trains")
    wrong = [
        f"{path} {found[path].shape}, not {x.shape}" for path, x in trainable.items() if found[path].shape != x.shape
    ]
    if wrong:
        raise ConfigError(f"{source} has other sizes than this config's model: {'; '.join(wrong)}")
    _check_frozen(config, source, found, arrays | trained_by_predecessors(config, shapes), set(trainable))
    shutil.rmtree(workdir / "checkpoints", ignore_errors=True)  # of a conversion that was killed
    open_workdir(workdir, config)
    placed = {path: jax.device_put(found[path], shape.sharding) for path, shape in trainable.items()}
    with Checkpoints(workdir / "checkpoints", Meta(config.to_dict(), fingerprints(config))) as checkpoints:
        checkpoints.save_weights(0, placed)


def stage_arrays(stage: Stage) -> dict[str, np.ndarray]:
    """Path in a grounder -> array, of all that a stage directory holds."""
    arrays = {f"llm/{path}": array for path, array in stage.lora.arrays.items()}
    return arrays | adapter_arrays(stage.frozen) | adapter_arrays(stage.trained)


def _check_frozen(config: ConfigDict, source: Path, found: Mapping, known: Mapping, trainable: set[str]) -> None:
    """Raises ConfigError where a directory's frozen parts are not those that the config names."""
    frozen = {path: array for path, array in found.items() if path in known and path not in trainable}
    differing = [path for path, array in frozen.items() if not np.array_equal(array, known[path])]
    if differing:
        raise ConfigError(
            f"{source} stands on other parts than this config names: {differing[0]}"
            f"{f' and {len(differing) - 1} more' if len(differing) > 1 else ''} differ. Give as base.projector "
            f"(its {PROJECTOR}, where it has one), init.dense and init.sparse what this stage was trained behind."
        )


def check_import(config: ConfigDict, source: Path, workdir: Path, mesh: Mesh) -> dict[str, Comparison]:
    """Restores the run and compares its logits with those of the directory.

    Raises:
      CheckError: they differ.
    """
    parts = restore_parts(config, workdir, mesh)
    stage = read_stage(source, parts.llm, **sparse_options(config))
    base, prompts = Weights(resolve_path(config.base.llm)), make_prompts(config)
    found = {}
    for level in stage_of(config).adapters:
        adapter = getattr(parts, level)
        given = fixed_input(prompts, adapter)
        theirs = adapter_of(stage, level) or adapter
        logits = [
            grounder_logits(side, parts.llm, given)
            for side in (Parts(base, stage.lora, theirs), Parts(base, parts.lora, adapter))
        ]
        found[level] = compare(*logits, np.float32, given.answers)
    return found
