"""Sharded safetensors, written tensor by tensor: bounded memory, and a stopped write goes on where it stopped."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from revision_jax.interop.files import write_tensors
from revision_jax.interop.weights import SAFETENSORS
from revision_jax.units import GIB

SHARD_BYTES = GIB  # a shard is held in memory while it is written, twice for a moment


def write_shards(
    tensors: Mapping[str, Any],
    directory: str | Path,
    *,
    dtype: Any,
    shard_bytes: int = SHARD_BYTES,
    on_bytes: Callable[[int], None] = lambda count: None,
) -> list[Path]:
    """Writes `model.safetensors`, or shards of at most `shard_bytes` (or one tensor) and their index.

    Shards that are there already, whole and with the same tensors, are kept: the caller sees to it that they come
    from the same source.

    Args:
      tensors: key -> array, or what has a `shape` and gives one by `np.asarray`; each is read once.
      dtype: of every tensor in the files.
      on_bytes: told the bytes of each tensor written, or found.

    Returns:
      the weight files.
    """
    directory, dtype = Path(directory), np.dtype(dtype)
    directory.mkdir(parents=True, exist_ok=True)
    size = lambda key: int(np.prod(tensors[key].shape, dtype=np.int64)) * dtype.itemsize
    plan = _plan({key: size(key) for key in tensors}, shard_bytes)
    names = [SAFETENSORS] if len(plan) == 1 else [_shard_name(i, len(plan)) for i in range(len(plan))]
    for name, keys in zip(names, plan):
        path = directory / name
        if _is_whole(path, {key: tuple(tensors[key].shape) for key in keys}, dtype):
            on_bytes(sum(map(size, keys)))
            continue
        shard = {}
        for key in keys:
            shard[key] = np.asarray(np.asarray(tensors[key]).astype(dtype, copy=False), order="C")
            on_bytes(size(key))
        write_tensors(shard, path)
    if len(plan) > 1:
        weight_map = {key: name for name, keys in zip(names, plan) for key in keys}
        index = {"metadata": {"total_size": sum(map(size, tensors))}, "weight_map": weight_map}
        (directory / f"{SAFETENSORS}.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return [directory / name for name in names]


def _plan(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    plan, used = [[]], 0
    for key, size in sizes.items():
        if plan[-1] and used + size > limit:
            plan.append([])
            used = 0
        plan[-1].append(key)
        used += size
    return plan


def _shard_name(index: int, count: int) -> str:
    stem, suffix = SAFETENSORS.split(".")
    return f"{stem}-{index + 1:05d}-of-{count:05d}.{suffix}"


def _is_whole(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype) -> bool:
    """Whether a file holds just these tensors. Its size is checked by `safe_open` against its header."""
    if not path.is_file():
        return False
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    try:
        with safe_open(path, framework="np") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            found = {key: (tuple(part.get_shape()), part.get_dtype()) for key, part in slices.items()}
    except SafetensorError:
        return False
    return found == {key: (shape, names[dtype.name]) for key, shape in shapes.items()}
