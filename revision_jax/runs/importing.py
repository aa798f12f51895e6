"""A published stage directory, or a LoRA of PEFT, as a run: a config and a checkpoint that hold what it trained."""

import dataclasses
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.checkpoint import Checkpoints
from revision_jax.checkpoint_record import Meta
from revision_jax.config import ConfigError, resolve_path
from revision_jax.interop.check import Comparison, compare
from revision_jax.interop.grounder_check import Parts, fixed_input, grounder_logits
from revision_jax.interop.stage import PROJECTOR, Stage, read_stage
from revision_jax.interop.unified import joined, visual_arrays
from revision_jax.interop.weights import Weights
from revision_jax.runs.base import llama_config, make_prompts
from revision_jax.runs.grounder import fingerprints, trained_by_predecessors
from revision_jax.runs.parts import restore_parts, shapes_and_fresh
from revision_jax.runs.predecessors import check_lora, sparse_options
from revision_jax.runs.stage import LAYOUTS, has_layouts, levels_of, stage_of
from revision_jax.training.state import split_by_table
from revision_jax.training.workdir import open_workdir

log = logging.getLogger(__name__)


def import_stage(config: ConfigDict, source: Path, workdir: Path, mesh: Mesh) -> None:
    """Fills a work folder with what a stage directory trained.

    What the stage did not train must be what the config names (`base.projector`, `init.*`): it is compared. Variant U's
    norm is left out where `model.visual_norm` is false: so the shipped evaluation computes.

    Raises:
      ConfigError: parts that are missing there, or differ from those that the config names.
      ValueError: tensors that do not fit, listed.
    """
    shapes, arrays = shapes_and_fresh(config, mesh)
    stage = read_stage(source, llama_config(config), **sparse_options(config))
    check_lora(config, stage.lora.config, source)
    trainable, _, _ = split_by_table(shapes, config.trainable)
    found = stage_arrays(stage)
    _check_layout(config, source, found, shapes)
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
    return {f"llm/{path}": array for path, array in stage.lora.arrays.items()} | visual_arrays(stage.visual)


def _check_layout(config: ConfigDict, source: Path, found: Mapping, shapes: Mapping) -> None:
    """Raises ConfigError where a directory holds modules that the config's model does not have, but for the norm."""
    others = [path for path in found if path not in shapes and not path.startswith("llm/")]
    if others and all(path.startswith("norm/") for path in others) and has_layouts(stage_of(config)):
        log.warning("%s: its alternate_layer_norm is left out (model.visual_norm is false)", source)
    elif others:
        raise ConfigError(
            f"{source} holds {others[0]}{f' and {len(others) - 1} more' if len(others) > 1 else ''}, which the model "
            f"of stage {config.stage!r} with model.layout {config.model.layout!r} does not have. Variant U's published "
            f"layouts are the presets configs/stage2.py:unified_LAYOUT (at 7B mad_LAYOUT), LAYOUT one of "
            f"{', '.join(LAYOUTS)}."
        )


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
    theirs, found = joined(stage.visual, parts.visual), {}
    theirs = dataclasses.replace(theirs, norm=theirs.norm if config.model.visual_norm else None)
    for level in levels_of(config):
        given = fixed_input(prompts, level)
        logits = [
            grounder_logits(side, parts.llm, given)
            for side in (Parts(base, stage.lora, theirs), Parts(base, parts.lora, parts.visual))
        ]
        found[level] = compare(*logits, np.float32, given.answers)
    return found
