"""A run in PyTorch's formats: each format written, and read back for the check.

A writer fills a folder from a run's parts; a reader gives the grounder that the folder holds, `Held`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from safetensors.numpy import save_file

from revision_jax.config import resolve_path
from revision_jax.interop.adapter import (
    load_dense_adapter,
    load_sparse_adapter,
    save_projector,
    save_sparse_adapter,
)
from revision_jax.interop.check import Comparison, compare
from revision_jax.interop.families import read_family
from revision_jax.interop.grounder_check import Parts, fixed_input, grounder_logits
from revision_jax.interop.lora import LoRA, read_lora, write_lora
from revision_jax.interop.merged import MergedLlama
from revision_jax.interop.output import byte_progress, copy_tokenizer, write_json
from revision_jax.interop.shards import write_shards
from revision_jax.interop.stage import PROJECTOR, Adapter, Stage, read_stage, write_projector, write_stage
from revision_jax.interop.unified import write_unified
from revision_jax.interop.weights import Weights
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.runs.base import make_prompts
from revision_jax.runs.parts import UNIFIED, RunParts
from revision_jax.runs.stage import stage_of
from revision_jax.training.optimizer import trained_by

ADAPTER_FILES = {"dense": "mm_projector.safetensors", "sparse": "sparse_adapter.safetensors", "unified": UNIFIED}
SECOND_ADAPTER = "sparse_adapter.bin"  # of variant U here, whose one LoRA serves both levels


class Held(NamedTuple):
    """What a folder holds: a Llama's state dict, the LoRA to add to it, an adapter a level."""

    tensors: Any
    lora: LoRA | None
    adapters: dict[str, Adapter]


def sparse_options(config: ConfigDict) -> dict[str, float]:
    """What a sparse adapter's files do not say."""
    return {"num_heads": config.sparse.num_heads, "dropout": config.sparse.dropout}


# ------------------------------------------------------------------------------------------------- revisionllm
def write_stage_directory(config: ConfigDict, parts: RunParts, folder: Path, dtype: Any, shard_bytes: int) -> None:
    level = stage_of(config).adapters[0]
    adapter = getattr(parts, level)
    if parts.lora is None:  # the align stage: a projector is all there is
        write_projector(adapter, folder / PROJECTOR, dtype=dtype)
        return
    trained = trained_by(config.trainable, ["adapter/kernel" if level == "dense" else "sparse/global_rep_token"])
    stage = Stage(parts.lora, adapter if trained else parts.unified, None if trained else adapter)
    write_stage(stage, folder, base=config.base.llm, dtype=dtype)
    if len(stage_of(config).adapters) > 1:
        write_projector(parts.sparse, folder / SECOND_ADAPTER, dtype=dtype)


def read_stage_directory(config: ConfigDict, parts: RunParts, folder: Path, base: Weights) -> Held:
    level = stage_of(config).adapters[0]
    if parts.lora is None:
        return Held(base, None, {level: load_dense_adapter(folder / PROJECTOR)})
    stage = read_stage(folder, parts.llm, **sparse_options(config))
    adapters = {level: adapter_of(stage, level)}
    if len(stage_of(config).adapters) > 1:
        adapters["sparse"] = load_sparse_adapter(folder / SECOND_ADAPTER, **sparse_options(config))
    return Held(base, stage.lora, adapters)


def adapter_of(stage: Stage, level: str) -> Adapter | None:
    """A stage directory's own adapter of a level, None where it has none."""
    kind = {"dense": DenseAdapter, "sparse": SparseAdapter}[level]
    return next((adapter for adapter in (stage.trained, stage.frozen) if isinstance(adapter, kind)), None)


# ------------------------------------------------------------------------------------------------- huggingface
def write_merged(config: ConfigDict, parts: RunParts, folder: Path, dtype: Any, shard_bytes: int) -> None:
    source = resolve_path(config.base.llm)
    merged = MergedLlama(parts.llm, Weights(source), parts.lora, source=source)
    total = sum(math.prod(merged[key].shape) for key in merged) * dtype.itemsize
    with byte_progress("merges", total) as advance:
        write_shards(merged, folder, dtype=dtype, shard_bytes=shard_bytes, on_bytes=advance)
    raw = read_family(source)
    raw.pop("torch_dtype", None)
    write_json(folder / "config.json", raw | {"dtype": dtype.name})
    copy_tokenizer(source, folder)
    save_projector(parts.dense, folder / ADAPTER_FILES["dense"])
    if parts.sparse is not None:
        save_sparse_adapter(parts.sparse, folder / ADAPTER_FILES["sparse"])
    if parts.unified is not None:
        save_file(write_unified(parts.unified), folder / ADAPTER_FILES["unified"])


def read_merged(config: ConfigDict, parts: RunParts, folder: Path, base: Weights) -> Held:
    adapters = {"dense": load_dense_adapter(folder / ADAPTER_FILES["dense"])}
    if parts.sparse is not None:
        adapters["sparse"] = load_sparse_adapter(folder / ADAPTER_FILES["sparse"], **sparse_options(config))
    return Held(Weights(folder), None, adapters)


# ------------------------------------------------------------------------------------------------- peft
def write_peft(config: ConfigDict, parts: RunParts, folder: Path, dtype: Any, shard_bytes: int) -> None:
    write_lora(parts.lora, folder, base=config.base.llm, dtype=dtype)


def read_peft(config: ConfigDict, parts: RunParts, folder: Path, base: Weights) -> Held:
    adapters = {level: getattr(parts, level) for level in stage_of(config).adapters}
    return Held(base, read_lora(folder, parts.llm), adapters)


Writer = Callable[[ConfigDict, RunParts, Path, Any, int], None]
Reader = Callable[[ConfigDict, RunParts, Path, Weights], Held]
WRITERS: dict[str, Writer] = {
    "revisionllm": write_stage_directory,
    "huggingface": write_merged,
    "peft": write_peft,
}
READERS: dict[str, Reader] = {"revisionllm": read_stage_directory, "huggingface": read_merged, "peft": read_peft}


# ------------------------------------------------------------------------------------------------- the check
def check_folder(config: ConfigDict, parts: RunParts, folder: Path, form: str, dtype: Any) -> dict[str, Comparison]:
    """Reads a folder back and compares its logits with the run's, at each level that the run answers.

    Raises:
      CheckError: they differ by more than `dtype` explains.
    """
    base, prompts = Weights(resolve_path(config.base.llm)), make_prompts(config)
    held = READERS[form](config, parts, folder, base)
    found = {}
    for level in stage_of(config).adapters:
        run = Parts(base, parts.lora, getattr(parts, level))
        given = fixed_input(prompts, run.adapter)
        written = Parts(held.tensors, held.lora, held.adapters[level])
        logits = [grounder_logits(side, parts.llm, given) for side in (run, written)]
        found[level] = compare(*logits, dtype, given.answers)
    return found
