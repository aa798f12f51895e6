"""What a run's model has beside its base LLM: LoRA and adapters, restored without reading the LLM's weights."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.config import ConfigError
from revision_jax.interop.llama import is_lora_path
from revision_jax.interop.lora import LoRA
from revision_jax.interop.table import flat_params
from revision_jax.interop.unified import PARTS, visual_arrays
from revision_jax.models.llama import LlamaConfig
from revision_jax.models.lora import LoRAConfig
from revision_jax.models.visual import Visual
from revision_jax.runs.base import llama_config
from revision_jax.runs.grounder import (
    abstract_grounder,
    check_files,
    make_visual,
    restore_trained,
    trained_by_predecessors,
)
from revision_jax.training.state import Arrays, split_by_table, take_apart


class RunParts(NamedTuple):
    """A trained run without its base LLM.

    Attributes:
      llm: sizes of the base LLM.
      lora: the LoRA as the run's model has it, trained here or before; None in the align stage, which has none.
      visual: the adapters and the norm; None where the stage has none.
      step: steps it was trained.
    """

    llm: LlamaConfig
    lora: LoRA | None
    visual: Visual
    step: int


def shapes_and_fresh(config: ConfigDict, mesh: Mesh) -> tuple[Arrays, Arrays]:
    """Of a config's grounder: path -> shape and place of every array, and the fresh arrays of its adapters.

    Raises:
      ConfigError: missing parts.
    """
    check_files(config)
    module, arrays = take_apart(abstract_grounder(config))
    where = module.shardings(mesh)
    shapes = {
        path: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=where[path]) for path, array in arrays.items()
    }
    return shapes, visual_arrays(make_visual(config, llama_config(config).hidden_size))


def restore_parts(config: ConfigDict, workdir: Path, mesh: Mesh) -> RunParts:
    """The parts as a run's newest checkpoint has them.

    Raises:
      ConfigError: missing parts; a run that trained weights of the LLM itself.
      CheckpointError: no checkpoint, or one that stands on other files.
    """
    shapes, arrays = shapes_and_fresh(config, mesh)
    trainable, _, _ = split_by_table(shapes, config.trainable)
    inside = [path for path in trainable if path.startswith("llm/") and not is_lora_path(path)]
    if inside:
        raise ConfigError(f"this run trained {inside}; only LoRA and adapters can be taken out of a run.")
    arrays |= trained_by_predecessors(config, shapes)
    step, trained = restore_trained(config, workdir, trainable)
    arrays |= trained
    sizes = llama_config(config)
    lora = {path.removeprefix("llm/"): np.asarray(array) for path, array in arrays.items() if is_lora_path(path)}
    visual = make_visual(config, sizes.hidden_size)
    for name in PARTS:
        if getattr(visual, name) is not None:
            fill(getattr(visual, name), arrays, name)
    return RunParts(sizes, LoRA(LoRAConfig(**config.lora), lora) if lora else None, visual, step)


def fill(module: nnx.Module, arrays: Arrays, name: str) -> None:
    """Gives a grounder's part `name` its arrays."""
    for path, param in flat_params(module).items():
        param.set_value(jnp.asarray(arrays[f"{name}/{path}"]))
