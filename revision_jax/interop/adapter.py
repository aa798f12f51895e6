"""Adapters in the published formats, both ways: the dense projector and the sparse adapter.

Keys may stand under prefixes (`model.`, `base_model.model.model.`, `mm_projector.`), as the public
checkpoints have them; the prefix is found from a key that every such file has.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from revision_jax.interop.files import read_tensors
from revision_jax.interop.table import (
    TRANSPOSED,
    Row,
    Table,
    export_params,
    flat_params,
    import_params,
)
from revision_jax.models.adapter import DenseAdapter, SparseAdapter

_PROJECTOR = "mm_projector."
DENSE_TABLE = Table((Row("weight", "kernel", TRANSPOSED), Row("bias", "bias")))


def _sparse_rows() -> list[Row]:
    rows = [
        Row("global_rep_token", "global_rep_token"),
        Row("global_rep_pos", "global_rep_pos"),
        Row("mm_projector.weight", "mm_projector/kernel", TRANSPOSED),
        Row("mm_projector.bias", "mm_projector/bias"),
    ]
    for stack in ("t2v_encoder", "encoder"):
        layer = f"{stack}.layers.{{layer}}"
        rows.append(Row(f"{layer}.self_attn.in_proj_weight", f"{stack}/in_proj/kernel", TRANSPOSED))
        rows.append(Row(f"{layer}.self_attn.in_proj_bias", f"{stack}/in_proj/bias"))
        for theirs, ours in (("self_attn.out_proj", "out_proj"), ("linear1",) * 2, ("linear2",) * 2):
            rows.append(Row(f"{layer}.{theirs}.weight", f"{stack}/{ours}/kernel", TRANSPOSED))
            rows.append(Row(f"{layer}.{theirs}.bias", f"{stack}/{ours}/bias"))
        for norm in ("norm1", "norm2"):
            rows.append(Row(f"{layer}.{norm}.weight", f"{stack}/{norm}/scale"))
            rows.append(Row(f"{layer}.{norm}.bias", f"{stack}/{norm}/bias"))
    return rows


SPARSE_TABLE = Table(tuple(_sparse_rows()))


def load_projector(path: str | Path) -> dict[str, np.ndarray]:
    """The dense projector of a .safetensors, .bin or .pt: {"weight" [H, D], "bias" [H]}.

    Raises ValueError when the file holds anything else, FileNotFoundError when it is missing.
    """
    tensors = _strip(read_tensors(path), f"{_PROJECTOR}weight", path)
    tensors = {key.removeprefix(_PROJECTOR): value for key, value in tensors.items()}
    if set(tensors) != {"weight", "bias"}:
        raise ValueError(f"{path}: expected a projector's weight and bias alone, found {sorted(tensors)}")
    return tensors


def load_dense_adapter(path: str | Path) -> DenseAdapter:
    """A `DenseAdapter` with a file's projector; its widths are the file's."""
    return dense_adapter_from(load_projector(path), source=path)


def dense_adapter_from(tensors: Mapping[str, np.ndarray], *, source: str | Path = "the checkpoint") -> DenseAdapter:
    """A `DenseAdapter` from `weight` [H, D] and `bias` [H]."""
    hidden_size, visual_width = tensors["weight"].shape
    adapter = nnx.eval_shape(lambda: DenseAdapter(visual_width, hidden_size, rngs=nnx.Rngs(0)))
    import_params(DENSE_TABLE, tensors, flat_params(adapter), source=source)
    return adapter


def save_projector(adapter: DenseAdapter, path: str | Path) -> None:
    """Writes `mm_projector.weight` and `mm_projector.bias` to a .safetensors."""
    _save(adapter_tensors(adapter), path)


def load_sparse_adapter(path: str | Path, **options: Any) -> SparseAdapter:
    """A `SparseAdapter` with a file's weights; `options` (num_heads, dropout) are not in a file."""
    return sparse_adapter_from(_strip(read_tensors(path), "global_rep_token", path), source=path, **options)


def sparse_adapter_from(
    tensors: Mapping[str, np.ndarray], *, source: str | Path = "the checkpoint", **options: Any
) -> SparseAdapter:
    """A `SparseAdapter` from tensors under their published names; sizes are taken from the tensors.

    Raises ValueError listing every missing, unknown or misshapen tensor.
    """
    if "mm_projector.weight" not in tensors:
        raise ValueError(f"{source}: not a sparse adapter: mm_projector.weight is missing from {sorted(tensors)}")
    hidden_size, visual_width = tensors["mm_projector.weight"].shape
    sizes = sparse_sizes(tensors, source)
    adapter = nnx.eval_shape(lambda: SparseAdapter(visual_width, hidden_size, rngs=nnx.Rngs(0), **sizes, **options))
    import_params(SPARSE_TABLE, tensors, flat_params(adapter), source=source)
    return adapter


def sparse_sizes(tensors: Mapping[str, np.ndarray], source: str | Path) -> dict[str, int]:
    """`mlp_width` and `num_layers` of the sparse adapter that some tensors are. ValueError when they are none."""
    first = "encoder.layers.0.linear1.weight"
    if first not in tensors:
        raise ValueError(f"{source}: not a sparse adapter: {first} is missing from {sorted(tensors)}")
    layers = sum(key.startswith("encoder.") and key.endswith("linear1.weight") for key in tensors)
    return {"mlp_width": tensors[first].shape[0], "num_layers": layers}


def save_sparse_adapter(adapter: SparseAdapter, path: str | Path) -> None:
    """Writes the published names to a .safetensors."""
    _save(_export(SPARSE_TABLE, adapter), path)


def adapter_tensors(adapter: DenseAdapter | SparseAdapter) -> dict[str, np.ndarray]:
    """An adapter under its published names as the attribute `mm_projector` of a model."""
    table = DENSE_TABLE if isinstance(adapter, DenseAdapter) else SPARSE_TABLE
    return {f"{_PROJECTOR}{key}": value for key, value in _export(table, adapter).items()}


def _export(table: Table, module: nnx.Module) -> dict[str, np.ndarray]:
    return export_params(table, {name: param[...] for name, param in flat_params(module).items()})


def _save(tensors: dict[str, np.ndarray], path: str | Path) -> None:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: adapters are written as .safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)


def _strip(tensors: Mapping[str, np.ndarray], anchor: str, path: str | Path) -> dict[str, np.ndarray]:
    """Drops the prefix that stands before `anchor` from every key; ValueError when there is none or two."""
    prefixes = sorted(key.removesuffix(anchor) for key in tensors if key.endswith(anchor))
    if len(prefixes) != 1:
        raise ValueError(f"{path}: expected one key ending in {anchor!r}, found {sorted(tensors)}")
    strangers = [key for key in tensors if not key.startswith(prefixes[0])]
    if strangers:
        raise ValueError(f"{path}: keys {strangers} are not under {prefixes[0]!r} as {anchor!r} is")
    return {key.removeprefix(prefixes[0]): value for key, value in tensors.items()}
