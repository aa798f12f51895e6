"""The adapters of a published model, in each layout: names of tensors <-> the modules of a grounder.

| layout | `mm_projector.*` | `cross_attn.*` |
|---|---|---|
| stages apart | the dense projector, or the sparse adapter | none |
| variant U, visual_width | the dense projector | the sparse adapter, with `mm_projector` |
| variant U, llm_width | the dense projector | the sparse adapter, with `text_mm_projector` |
| variant U, clip_adapter | the sparse adapter | none |

`alternate_layer_norm.*` is variant U's norm. A file may hold some of these alone.
"""

from collections.abc import Mapping

import jax
import numpy as np

from revision_jax.interop.adapter import dense_adapter_from, module_tensors, norm_from, sparse_adapter_from
from revision_jax.interop.table import flat_params
from revision_jax.models.visual import Visual

PROJECTOR, CROSSED, NORM = "mm_projector.", "cross_attn.", "alternate_layer_norm."
PARTS = ("adapter", "sparse", "norm")


def read_visual(tensors: Mapping[str, np.ndarray], source: str, **sparse_options: float) -> Visual:
    """The modules that published tensors hold; sizes are taken from the tensors.

    Args:
      sparse_options: `num_heads` and `dropout` of a sparse adapter, which are not in its tensors.

    Raises:
      ValueError: tensors of no known layout, missing or misshapen ones, listed.
    """
    strangers = [key for key in tensors if not key.startswith((PROJECTOR, CROSSED, NORM))]
    if strangers:
        raise ValueError(
            f"{source}: {strangers} are trained tensors of no known layout; expected those of mm_projector (dense or "
            "sparse), or of variant U (cross_attn, alternate_layer_norm)"
        )
    own = lambda prefix: {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
    projector, crossed, norm = map(own, (PROJECTOR, CROSSED, NORM))
    dense = set(projector) == {"weight", "bias"}
    if crossed and projector and not dense:
        raise ValueError(f"{source}: both cross_attn and mm_projector are a sparse adapter; expected one of them")
    adapter = dense_adapter_from(projector, source=source) if dense else None
    sparse = crossed or (None if dense else projector)
    return Visual(
        adapter,
        sparse_adapter_from(sparse, source=source, **sparse_options) if sparse else None,
        norm_from(norm, source=source) if norm else None,
    )


def write_visual(visual: Visual, crossed: bool) -> dict[str, np.ndarray]:
    """The inverse of `read_visual`; the sparse adapter under `cross_attn` or under `mm_projector`."""
    prefixes = {"adapter": PROJECTOR, "sparse": CROSSED if crossed else PROJECTOR, "norm": NORM}
    modules = {name: getattr(visual, name) for name in PARTS}
    return {
        f"{prefixes[name]}{key}": value
        for name, module in modules.items() if module is not None
        for key, value in module_tensors(module).items()
    }  # fmt: skip


def visual_arrays(visual: Visual | None) -> dict[str, np.ndarray]:
    """Arrays by their path in a grounder: `adapter/...`, `sparse/...`, `norm/...`."""
    modules = {} if visual is None else {name: getattr(visual, name) for name in PARTS}
    return {
        f"{name}/{path}": np.asarray(jax.device_get(param[...]))
        for name, module in modules.items() if module is not None
        for path, param in flat_params(module).items()
    }  # fmt: skip


def joined(first: Visual | None, *others: Visual | None) -> Visual:
    """Each module from the first that has it."""
    have = lambda name: (getattr(one, name) for one in (first, *others) if one is not None)
    return Visual(*(next((module for module in have(name) if module is not None), None) for name in PARTS))
