"""Rotary position embeddings (arXiv 2104.09864) in the Hugging Face layout, with linear and Llama-3 scaling.

Letters: B batch, T tokens, N heads, D head width.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.models.layers import wide

_LLAMA3_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def rope_frequencies(head_dim: int, theta: float, scaling: dict[str, Any] | None) -> np.ndarray:
    """[D / 2] float32 radians a position; `scaling` is config.json's rope_scaling, None for plain rotary."""
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    kind = "default" if scaling is None else scaling.get("rope_type", scaling.get("type"))
    if kind == "default":
        scaled = frequencies
    elif kind == "linear":
        scaled = frequencies / _required(scaling, ("factor",))[0]
    elif kind == "llama3":
        scaled = _llama3(frequencies, *_required(scaling, _LLAMA3_KEYS))
    else:
        raise ValueError(f"rope_scaling type {kind!r} is not supported; expected default, linear or llama3")
    return scaled.astype(np.float32)


def _required(scaling: dict[str, Any], keys: tuple[str, ...]) -> list[float]:
    missing = [key for key in keys if key not in scaling]
    if missing:
        raise ValueError(f"rope_scaling {scaling} lacks {missing}")
    return [scaling[key] for key in keys]


def _llama3(frequencies: np.ndarray, factor: float, low: float, high: float, original: float) -> np.ndarray:
    """Long wavelengths are slowed by `factor`, short ones kept, those between blended (Llama 3.1's rule)."""
    wavelength = 2 * math.pi / frequencies
    keep = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return (1 - keep) * frequencies / factor + keep * frequencies


def rope_tables(positions: jax.Array, frequencies: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Positions [B or 1, T] -> cosines and sines [B or 1, T, 1, D / 2] float32, broadcasting over heads."""
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates [B, T, N, D]; the pair of a channel is half the head width away. Computed in float32."""
    a, b = jnp.split(wide(x), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
