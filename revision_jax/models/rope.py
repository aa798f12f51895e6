"""Rotary position embeddings (arXiv 2104.09864) in the Hugging Face layout, and how they are stretched for long texts.

Kinds: default, linear, dynamic (as transformers has it: plain up to the model's positions, and longer sequences are
refused), llama3 (Llama 3.1's rule), yarn (arXiv 2309.00071).

Letters: B batch, T tokens, N heads, D head width.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.models.layers import wide

# Kind -> (keys it needs, keys it may have) beside the name of the kind.
_ORIGINAL = "original_max_position_embeddings"
_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), (_ORIGINAL,)),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", _ORIGINAL), ()),
    "yarn": (
        ("factor", _ORIGINAL),
        ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
}
_NAMES = ("rope_type", "type", "finetuned")  # `finetuned` is a remark of YaRN's own models


class Rope(NamedTuple):
    """How a model turns its queries and keys.

    Attributes:
      frequencies: `[D / 2]` float32, radians a position.
      factor: of cosines and sines, so that scores of attention take its square: YaRN's attention factor.
    """

    frequencies: np.ndarray
    factor: float = 1.0


def rope_kind(scaling: Mapping[str, Any] | None) -> str:
    """The kind that config.json's rope_scaling names; None is plain rotary, "default"."""
    return "default" if scaling is None else scaling.get("rope_type", scaling.get("type"))


def make_rope(head_dim: int, theta: float, scaling: Mapping[str, Any] | None) -> Rope:
    """The rotation of a model; `scaling` is config.json's rope_scaling, None for plain rotary.

    Raises:
      ValueError: a kind that is not known, keys that it needs or does not know.
    """
    frequencies = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    kind = rope_kind(scaling)
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ValueError(f"rope_scaling type {kind!r} is not supported; expected one of {', '.join(_KEYS)}")
    _check_keys(kind, scaling or {})
    factor = 1.0
    if kind == "linear":
        frequencies = frequencies / scaling["factor"]
    elif kind == "llama3":
        frequencies = _llama3(frequencies, *(scaling[key] for key in _KEYS["llama3"][0]))
    elif kind == "yarn":
        frequencies = _yarn(frequencies, head_dim, theta, scaling)
        factor = _yarn_attention(scaling)
    return Rope(frequencies.astype(np.float32), factor)


def _check_keys(kind: str, scaling: Mapping[str, Any]) -> None:
    needed, optional = _KEYS[kind]
    missing = [key for key in needed if scaling.get(key) is None]
    if missing:
        raise ValueError(f"rope_scaling {dict(scaling)} lacks {missing}")
    unknown = sorted(set(scaling) - {*needed, *optional, *_NAMES})
    if unknown:
        raise ValueError(
            f"rope_scaling {dict(scaling)} has {unknown}, which type {kind!r} does not know; expected "
            f"{list(needed + optional)}. Remove from config.json what does not change the arithmetic"
        )
    numbers = {key: scaling[key] for key in scaling if key not in (*_NAMES, "truncate") and scaling[key] is not None}
    wrong = {key: value for key, value in numbers.items() if not _is_number(value, 0 if "mscale" in key else 1e-9)}
    if kind == "llama3" and not wrong and not scaling["low_freq_factor"] < scaling["high_freq_factor"]:
        wrong = {key: scaling[key] for key in ("low_freq_factor", "high_freq_factor")}
    if wrong:
        raise ValueError(
            f"rope_scaling has {wrong!r:.200}; expected numbers above 0, the low factor below the high one"
        )


def _is_number(value: Any, low: float) -> bool:
    return type(value) in (int, float) and low <= value < math.inf


def _llama3(frequencies: np.ndarray, factor: float, low: float, high: float, original: float) -> np.ndarray:
    """Long wavelengths are slowed by `factor`, short ones kept, those between blended (Llama 3.1's rule)."""
    wavelength = 2 * math.pi / frequencies
    keep = np.clip((original / wavelength - low) / (high - low), 0, 1)
    return (1 - keep) * frequencies / factor + keep * frequencies


def _yarn(frequencies: np.ndarray, head_dim: int, theta: float, scaling: Mapping[str, Any]) -> np.ndarray:
    """Channels that turn often within the original length are kept, those that turn rarely slowed by `factor`.

    Between `beta_fast` and `beta_slow` turns they are blended along a ramp over the channels.
    """
    turns = lambda key, default: scaling.get(key) or default
    # The channel, as a fraction of the head width, that turns so often within the original length.
    channel = lambda count: head_dim * math.log(scaling[_ORIGINAL] / (2 * math.pi * count)) / (2 * math.log(theta))
    first, last = channel(turns("beta_fast", 32)), channel(turns("beta_slow", 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    slowed = np.clip((np.arange(head_dim // 2) - first) / (last - first or 1e-3), 0, 1)
    return frequencies * (slowed / scaling["factor"] + (1 - slowed))


def _yarn_attention(scaling: Mapping[str, Any]) -> float:
    """The given attention factor, or `0.1 ln(factor) + 1`; two `mscale` give the quotient of two of these."""
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    grown = math.log(max(scaling["factor"], 1.0))
    above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if above and below:  # one of them alone changes nothing, as in transformers
        return (0.1 * above * grown + 1) / (0.1 * below * grown + 1)
    return 0.1 * grown + 1


def rope_tables(positions: jax.Array, rope: Rope) -> tuple[jax.Array, jax.Array]:
    """Positions [B or 1, T] -> cosines and sines [B or 1, T, 1, D / 2] float32, broadcasting over heads."""
    angles = positions[..., None, None].astype(jnp.float32) * rope.frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return (cos, sin) if rope.factor == 1 else (cos * rope.factor, sin * rope.factor)


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates [B, T, N, D]; the pair of a channel is half the head width away. Computed in float32."""
    a, b = jnp.split(wide(x), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
