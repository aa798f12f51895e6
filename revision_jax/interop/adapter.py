"""Adapters in the published formats, both ways: the dense projector, the sparse adapter, a norm over their tokens.

Keys may stand under prefixes (`model.`, `base_model.model.model.`, `mm_projector.`), as the public
checkpoints have them; the prefix is found from a key that every such file has.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from revision_jax.interop.files import read_tensors, write_tensors
from revision_jax.interop.table import (
    TRANSPOSED,
    Row,
    Table,
    export_params,
    flat_params,
    import_params,
)
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.layers import LayerNorm, shapes_of

_PROJECTOR = "mm_projector."
DENSE_TABLE = Table((Row("weight", "kernel", TRANSPOSED), Row("bias", "bias")))
NORM_TABLE = Table((Row("weight", "scale"), Row("bias", "bias")))


def _sparse_rows(projector: str) -> list[Row]:
    rows = [
        Row("global_rep_token", "global_rep_token"),
        Row("global_rep_pos", "global_rep_pos"),
        Row(f"{projector}.weight", f"{projector}/kernel", TRANSPOSED),
        Row(f"{projector}.bias", f"{projector}/bias"),
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


# The linear layer of a sparse adapter: behind an encoder at the width of the features, or before one at the LLM's.
BEHIND, BEFORE = "mm_projector", "text_mm_projector"
SPARSE_TABLES = {name: Table(tuple(_sparse_rows(name))) for name in (BEHIND, BEFORE)}


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
    adapter = shapes_of(lambda rngs: DenseAdapter(visual_width, hidden_size, rngs=rngs))
    import_params(DENSE_TABLE, tensors, flat_params(adapter), source=source)
    return adapter


def save_projector(adapter: DenseAdapter, path: str | Path) -> None:
    """Writes `mm_projector.weight` and `mm_projector.bias` to a .safetensors."""
    _save(adapter_tensors(adapter), path)


def load_sparse_adapter(path: str | Path, **options: Any) -> SparseAdapter:
    """A `SparseAdapter` with a file's weights; `options` (num_heads, dropout, precision) are not in a file."""
    return sparse_adapter_from(_strip(read_tensors(path), "global_rep_token", path), source=path, **options)


def sparse_adapter_from(
    tensors: Mapping[str, np.ndarray], *, source: str | Path = "the checkpoint", **options: Any
) -> SparseAdapter:
    """A `SparseAdapter` from tensors under their published names; sizes are taken from the tensors.

    Raises ValueError listing every missing, unknown or misshapen tensor.
    """
    found = [name for name in SPARSE_TABLES if f"{name}.weight" in tensors]
    if len(found) != 1:
        wanted = f"{BEHIND}.weight or {BEFORE}.weight, one of them,"
        raise ValueError(f"{source}: not a sparse adapter: expected {wanted} among {sorted(tensors)}")
    [name] = found
    hidden_size, visual_width = tensors[f"{name}.weight"].shape
    sizes = sparse_sizes(tensors, source) | options | {"projected": name == BEFORE}
    if name == BEFORE and hidden_size % sizes.get("num_heads", 8):
        raise ValueError(f"{source}: {BEFORE}.weight gives width {hidden_size}; expected a multiple of the heads")
    adapter = shapes_of(lambda rngs: SparseAdapter(visual_width, hidden_size, rngs=rngs, **sizes))
    import_params(SPARSE_TABLES[name], tensors, flat_params(adapter), source=source)
    return adapter


def norm_from(tensors: Mapping[str, np.ndarray], *, source: str | Path = "the checkpoint") -> LayerNorm:
    """A `LayerNorm` from `weight` [H] and `bias` [H]."""
    width = next(iter(tensors.values())).shape[0]
    norm = shapes_of(lambda rngs: LayerNorm(width, axis="norm", rngs=rngs))
    import_params(NORM_TABLE, tensors, flat_params(norm), source=source)
    return norm


def sparse_sizes(tensors: Mapping[str, np.ndarray], source: str | Path) -> dict[str, int]:
    """`mlp_width` and `num_layers` of the sparse adapter that some tensors are. ValueError when they are none."""
    first = "encoder.layers.0.linear1.weight"
    if first not in tensors:
        raise ValueError(f"{source}: not a sparse adapter: {first} is missing from {sorted(tensors)}")
    layers = sum(key.startswith("encoder.") and key.endswith("linear1.weight") for key in tensors)
    return {"mlp_width": tensors[first].shape[0], "num_layers": layers}


def save_sparse_adapter(adapter: SparseAdapter, path: str | Path) -> None:
    """Writes the published names to a .safetensors."""
    _save(module_tensors(adapter), path)


def adapter_tensors(adapter: DenseAdapter | SparseAdapter) -> dict[str, np.ndarray]:
    """An adapter under its published names as the attribute `mm_projector` of a model."""
    return {f"{_PROJECTOR}{key}": value for key, value in module_tensors(adapter).items()}


def module_tensors(module: DenseAdapter | SparseAdapter | LayerNorm) -> dict[str, np.ndarray]:
    """An adapter or norm under its published names."""
    if isinstance(module, SparseAdapter):
        table = SPARSE_TABLES[BEFORE if module.reads_projected else BEHIND]
    else:
        table = DENSE_TABLE if isinstance(module, DenseAdapter) else NORM_TABLE
    return export_params(table, {name: param[...] for name, param in flat_params(module).items()})


def _save(tensors: dict[str, np.ndarray], path: str | Path) -> None:
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: adapters are written as .safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, path)


def _strip(tensors: Mapping[str, np.ndarray], anchor: str, path: str | Path) -> dict[str, np.ndarray]:
    """Drops the prefix that stands before `anchor` from every key; ValueError when there is none or two."""
    prefixes = sorted(key.removesuffix(anchor) for key in tensors if key.endswith(anchor))
    if len(prefixes) != 1:
        raise ValueError(f"{path}: expected one key ending in {anchor!r}, found {sorted(tensors)}")
    strangers = [key for key in tensors if not key.startswith(prefixes[0])]
    if strangers:
        raise ValueError(f"{path}: keys {strangers} are not under {prefixes[0]!r} as {anchor!r} is")
    return {key.removeprefix(prefixes[0]): value for key, value in tensors.items()}
