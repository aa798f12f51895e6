"""A run in PyTorch's formats: each format written, and read back for the check.

A writer fills a folder from a run's parts; a reader gives the grounder that the folder holds, `Held`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from revision_jax.config import resolve_path
from revision_jax.interop.adapter import (
    load_dense_adapter,
    load_sparse_adapter,
    module_tensors,
    norm_from,
    save_projector,
    save_sparse_adapter,
)
from revision_jax.interop.check import Comparison, compare
from revision_jax.interop.families import read_family
from revision_jax.interop.files import read_tensors, write_tensors
from revision_jax.interop.grounder_check import Parts, fixed_input, grounder_logits
from revision_jax.interop.lora import LoRA, read_lora, write_lora
from revision_jax.interop.merged import MergedLlama
from revision_jax.interop.output import byte_progress, copy_tokenizer, write_json
from revision_jax.interop.shards import write_shards
from revision_jax.interop.stage import PROJECTOR, Stage, read_stage, write_projector, write_stage
from revision_jax.interop.unified import PARTS, joined
from revision_jax.interop.weights import Weights
from revision_jax.models.visual import Visual
from revision_jax.runs.base import make_prompts
from revision_jax.runs.parts import RunParts
from revision_jax.runs.predecessors import sparse_options
from revision_jax.runs.stage import has_layouts, levels_of, stage_of
from revision_jax.training.optimizer import trained_by

ADAPTER_FILES = {
    "adapter": "mm_projector.safetensors",
    "sparse": "sparse_adapter.safetensors",
    "norm": "visual_norm.safetensors",
}
SECOND_ADAPTER = "sparse_adapter.bin"  # of variant U, whose one LoRA serves both levels, where it was not trained


class Held(NamedTuple):
    """What a folder holds: a Llama's state dict, the LoRA to add to it, the adapters."""

    tensors: Any
    lora: LoRA | None
    visual: Visual


# ------------------------------------------------------------------------------------------------- revisionllm
def write_stage_directory(config: ConfigDict, parts: RunParts, folder: Path, dtype: Any, shard_bytes: int) -> None:
    level, visual = stage_of(config).adapters[0], parts.visual
    first = Visual(adapter=visual.adapter) if level == "dense" else Visual(sparse=visual.sparse)
    if parts.lora is None:  # the align stage: a projector is all there is
        write_projector(first, folder / PROJECTOR, dtype=dtype)
        return
    trained = Visual(*(getattr(visual, name) if _trains(config, name) else None for name in PARTS))
    beside = getattr(trained, "adapter" if level == "dense" else "sparse") is None
    crossed = has_layouts(stage_of(config)) and level == "dense"
    stage = Stage(parts.lora, trained if trained != Visual() else None, first if beside else None, crossed)
    write_stage(stage, folder, base=config.base.llm, dtype=dtype)
    if crossed and trained.sparse is None:
        write_projector(Visual(sparse=visual.sparse), folder / SECOND_ADAPTER, dtype=dtype)


def _trains(config: ConfigDict, part: str) -> bool:
    """Whether a run's table trains a part of `Visual`."""
    one = {"adapter": "adapter/kernel", "sparse": "sparse/global_rep_token", "norm": "norm/scale"}[part]
    return bool(trained_by(config.trainable, [one]))


def read_stage_directory(config: ConfigDict, parts: RunParts, folder: Path, base: Weights) -> Held:
    if parts.lora is None:
        return Held(base, None, Visual(load_dense_adapter(folder / PROJECTOR)))
    stage = read_stage(folder, parts.llm, **sparse_options(config))
    visual = stage.visual
    if (folder / SECOND_ADAPTER).is_file():
        visual = joined(visual, Visual(sparse=load_sparse_adapter(folder / SECOND_ADAPTER, **sparse_options(config))))
    return Held(base, stage.lora, visual)


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
    visual = parts.visual
    if visual.adapter is not None:
        save_projector(visual.adapter, folder / ADAPTER_FILES["adapter"])
    if visual.sparse is not None:
        save_sparse_adapter(visual.sparse, folder / ADAPTER_FILES["sparse"])
    if visual.norm is not None:
        write_tensors(module_tensors(visual.norm), folder / ADAPTER_FILES["norm"])


def read_merged(config: ConfigDict, parts: RunParts, folder: Path, base: Weights) -> Held:
    have = lambda name: getattr(parts.visual, name) is not None
    sparse = lambda path: load_sparse_adapter(path, **sparse_options(config))
    loaders = {"adapter": load_dense_adapter, "sparse": sparse, "norm": lambda path: norm_from(read_tensors(path))}
    modules = {name: load(folder / ADAPTER_FILES[name]) for name, load in loaders.items() if have(name)}
    return Held(Weights(folder), None, Visual(**modules))


# ------------------------------------------------------------------------------------------------- peft
def write_peft(config: ConfigDict, parts: RunParts, folder: Path, dtype: Any, shard_bytes: int) -> None:
    write_lora(parts.lora, folder, base=config.base.llm, dtype=dtype)


def read_peft(config: ConfigDict, parts: RunParts, folder: Path, base: Weights) -> Held:
    return Held(base, read_lora(folder, parts.llm), parts.visual)


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
    for level in levels_of(config):
        given = fixed_input(prompts, level)
        run, written = Parts(base, parts.lora, parts.visual), Parts(held.tensors, held.lora, held.visual)
        logits = [grounder_logits(side, parts.llm, given) for side in (run, written)]
        found[level] = compare(*logits, dtype, given.answers)
    return found
