"""What a run's model has beside its base LLM: LoRA and adapters, restored without reading the LLM's weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.config import ConfigError, resolve_path
from revision_jax.interop.files import read_tensors
from revision_jax.interop.llama import is_lora_path, read_llama_config
from revision_jax.interop.lora import LoRA
from revision_jax.interop.table import flat_params
from revision_jax.interop.unified import read_unified
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import Compute, Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig
from revision_jax.runs.grounder import (
    make_adapters,
    missing_base,
    report_missing,
    restore_trained,
    trained_by_predecessors,
)
from revision_jax.runs.predecessors import missing_predecessors
from revision_jax.training.state import Arrays, Module, split_by_table, take_apart

UNIFIED = "unified_adapter.safetensors"  # in the work folder of a run that was made of variant U's published layout


class RunParts(NamedTuple):
    """A trained run without its base LLM.

    Attributes:
      llm: sizes of the base LLM.
      lora: the LoRA as the run's model has it, trained here or before; None in the align stage, which has none.
      dense, sparse: the adapters; `sparse` is None where the stage has none.
      step: steps it was trained.
      unified: the adapter of variant U as it was published, path -> array; it is carried along, never run.
    """

    llm: LlamaConfig
    lora: LoRA | None
    dense: DenseAdapter
    sparse: SparseAdapter | None
    step: int
    unified: Mapping[str, np.ndarray] | None = None


def abstract_grounder(config: ConfigDict, mesh: Mesh) -> tuple[Module, dict[str, jax.ShapeDtypeStruct], Arrays]:
    """The grounder of a config: its structure, the shapes and places of all its arrays, and its fresh adapters' arrays.

    Raises:
      ConfigError: missing parts.
    """
    report_missing(missing_base(config) + missing_predecessors(config))
    sizes, lora = read_llama_config(resolve_path(config.base.llm)), LoRAConfig(**config.lora)
    compute = Compute(jnp.dtype(config.model.dtype), jnp.dtype(config.model.param_dtype))
    llm = nnx.eval_shape(lambda: Llama(sizes, lora=lora, rngs=nnx.Rngs(0), compute=compute))
    module, arrays = take_apart(Grounder(llm, *make_adapters(config, sizes.hidden_size)))
    where = module.shardings(mesh)
    shapes = {
        path: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=where[path]) for path, array in arrays.items()
    }
    return module, shapes, {path: array for path, array in arrays.items() if isinstance(array, jax.Array)}


def restore_parts(config: ConfigDict, workdir: str | Path, mesh: Mesh) -> RunParts:
    """The parts as a run's newest checkpoint has them.

    Raises:
      ConfigError: missing parts; a run that trained weights of the LLM itself.
      CheckpointError: no checkpoint, or one that stands on other files.
    """
    _, shapes, arrays = abstract_grounder(config, mesh)
    trainable, _, _ = split_by_table(shapes, config.trainable)
    inside = [path for path in trainable if path.startswith("llm/") and not is_lora_path(path)]
    if inside:
        raise ConfigError(f"this run trained {inside}; only LoRA and adapters can be taken out of a run.")
    arrays |= trained_by_predecessors(config, shapes)
    step, trained = restore_trained(config, workdir, trainable)
    arrays |= trained
    sizes = read_llama_config(resolve_path(config.base.llm))
    lora = {path.removeprefix("llm/"): np.asarray(array) for path, array in arrays.items() if is_lora_path(path)}
    dense, sparse = make_adapters(config, sizes.hidden_size)
    fill(dense, arrays, "adapter")
    if sparse is not None:
        fill(sparse, arrays, "sparse")
    carried = Path(workdir) / UNIFIED
    unified = read_unified(read_tensors(carried), str(carried)) if carried.is_file() else None
    return RunParts(sizes, LoRA(LoRAConfig(**config.lora), lora) if lora else None, dense, sparse, step, unified)


def fill(module: nnx.Module, arrays: Arrays, name: str) -> None:
    """Gives a grounder's part `name` its arrays."""
    for path, param in flat_params(module).items():
        param.set_value(jnp.asarray(arrays[f"{name}/{path}"]))
