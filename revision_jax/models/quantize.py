"""Frozen kernels in 8 bits: half the memory of bfloat16, for a 7B base with LoRA on one 16 GiB chip.

Letters: L stacked layers, i input width, o output width.
Symmetric, one scale an output channel: `kernel = int8 * scale`. Activations, LoRA, norms, embeddings and the head keep
their types, so the only error is the rounding of weights: at most half of the channel's largest absolute value / 127.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax.models.layers import shapes_of
from revision_jax.models.llama import Llama

LEVELS = 127


def quantize(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [(L,) i, o] -> (int8 of its shape, scale [(L,) o] float32); a layer at a time, to spare memory."""
    if kernel.ndim == 3:
        parts = [quantize(layer) for layer in kernel]
        return np.stack([values for values, _ in parts]), np.stack([scale for _, scale in parts])
    wide = np.asarray(kernel, np.float32)
    scale = np.abs(wide).max(axis=0) / LEVELS
    steps = np.divide(wide, scale, out=np.zeros_like(wide), where=scale > 0)
    return np.rint(steps).astype(np.int8), scale


def with_scales(llm: Llama, scales: Mapping[str, jax.Array]) -> Llama:
    """The same Llama with a `kernel_scale` for each layer kernel; its kernels hold int8 values already.

    Args:
      scales: path of a `kernel_scale` -> array, one for each layer kernel.
    """
    compute = dataclasses.replace(llm.compute, param_dtype=jnp.int8)
    narrow = shapes_of(lambda rngs: Llama(llm.config, lora=llm.lora, compute=compute, rngs=rngs))
    graphdef, state = nnx.split(narrow)
    name = lambda key: "/".join(map(str, key))
    known = {name(key): variable.get_value() for key, variable in nnx.to_flat_state(nnx.split(llm)[1])} | dict(scales)
    filled = [(key, variable.replace(known[name(key)])) for key, variable in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))
