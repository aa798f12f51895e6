"""The precision of float32 products, decided in one place: what a model keeps in float32 is multiplied in float32.

Left to XLA, such products run in TF32 on GPUs and in one bfloat16 pass on TPUs: three digits, where parity promises
six. Products of narrower types are as they were. What it costs: docs/scale.md.
"""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp

_policy = [jax.lax.Precision.HIGHEST]  # of one element, so that `float32_products` can change it for a benchmark


def precision_of(*arrays: jax.Array) -> jax.lax.Precision | None:
    """The precision of a product of these arrays: None leaves it to XLA, where one is narrower than float32."""
    wide = all(jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits >= 32 for x in arrays)
    return _policy[0] if wide else None


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """`x @ y`, as precise as their types."""
    return jnp.matmul(x, y, precision=precision_of(x, y))


def einsum(pattern: str, x: jax.Array, y: jax.Array, **options) -> jax.Array:
    """`jnp.einsum` of two arrays, as precise as their types."""
    return jnp.einsum(pattern, x, y, precision=precision_of(x, y), **options)


@contextlib.contextmanager
def float32_products(precision: jax.lax.Precision) -> Iterator[None]:
    """Programs traced within it have float32 products of another precision: to measure what it costs."""
    before, _policy[0] = _policy[0], precision
    try:
        yield
    finally:
        _policy[0] = before
