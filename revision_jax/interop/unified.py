"""The adapter of the published variant U, as arrays both ways.

It is the encoder of the sparse adapter at the LLM's width, behind the dense projector, with a projection of the
text and a LayerNorm beside it. It is not published where that norm acts, so this project reads and writes these weights
but has no module that runs them.
"""

from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx

from revision_jax.interop.adapter import SPARSE_TABLE, sparse_sizes
from revision_jax.interop.table import (
    TRANSPOSED,
    Row,
    Table,
    export_params,
    flat_params,
    import_arrays,
)
from revision_jax.models.adapter import SparseAdapter

_TEXT = "text_mm_projector"
_NORM = "alternate_layer_norm"
_HEAD = "mm_projector/"  # the sparse adapter's way out, which an encoder at the LLM's width does not need
UNIFIED_TABLE = Table(
    (
        *(
            Row(f"cross_attn.{row.theirs}", f"cross_attn/{row.ours}", row.transform)
            for row in SPARSE_TABLE.rows
            if not row.ours.startswith(_HEAD)
        ),
        Row(f"cross_attn.{_TEXT}.weight", f"{_TEXT}/kernel", TRANSPOSED),
        Row(f"cross_attn.{_TEXT}.bias", f"{_TEXT}/bias"),
        Row(f"{_NORM}.weight", f"{_NORM}/scale"),
        Row(f"{_NORM}.bias", f"{_NORM}/bias"),
    )
)


def is_unified(tensors: Mapping[str, np.ndarray]) -> bool:
    return any(key.startswith(("cross_attn.", _NORM, _TEXT)) for key in tensors)


def read_unified(tensors: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Published names -> path -> array ("cross_attn/encoder/linear1/kernel"); sizes are taken from the tensors.

    `text_mm_projector` may also stand beside `cross_attn`, not in it. Raises TableError listing all that is wrong.
    """
    tensors = {f"cross_attn.{key}" if key.startswith(_TEXT) else key: value for key, value in tensors.items()}
    encoder = {key.removeprefix("cross_attn."): value for key, value in tensors.items()}
    missing = [key for key in ("global_rep_token", f"{_TEXT}.weight") if key not in encoder]
    if missing:
        raise ValueError(f"{source}: not an adapter of variant U: {missing} are missing from {sorted(tensors)}")
    width, text_width = encoder[f"{_TEXT}.weight"].shape
    params = _params(width, text_width, **sparse_sizes(encoder, source))
    return import_arrays(UNIFIED_TABLE, tensors, params, source=source)


def write_unified(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `read_unified`."""
    return export_params(UNIFIED_TABLE, arrays)


def _params(width: int, text_width: int, **sizes: int) -> dict[str, nnx.Param]:
    """Abstract parameters of the adapter, under their paths."""
    encoder = nnx.eval_shape(lambda: SparseAdapter(width, width, num_heads=1, rngs=nnx.Rngs(0), **sizes))
    params = {f"cross_attn/{path}": param for path, param in flat_params(encoder).items() if not path.startswith(_HEAD)}
    shape = lambda *sizes: nnx.Param(jax.ShapeDtypeStruct(sizes, np.float32))
    return params | {
        f"{_TEXT}/kernel": shape(text_width, width),
        f"{_TEXT}/bias": shape(width),
        f"{_NORM}/scale": shape(width),
        f"{_NORM}/bias": shape(width),
    }
