"""The precision of float32 products, decided in one place: what a model keeps in float32 is multiplied in float32.

Left to XLA, such products run in TF32 on GPUs and in one bfloat16 pass on TPUs: three digits, where parity promises
six. Products of narrower types are as they were. The sparse adapter, most of a search's arithmetic, has a precision of
its own (`sparse.precision`). What it costs: docs/scale.md.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp

_policy = ContextVar("precision of float32 products", default=jax.lax.Precision.HIGHEST)


def precision_of(*arrays: jax.Array) -> jax.lax.Precision | None:
    """The precision of a product of these arrays: None leaves it to XLA, where one is narrower than float32."""
    wide = all(jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits >= 32 for x in arrays)
    return _policy.get() if wide else None


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """`x @ y`, as precise as their types."""
    return jnp.matmul(x, y, precision=precision_of(x, y))


def einsum(pattern: str, x: jax.Array, y: jax.Array, **options) -> jax.Array:
    """`jnp.einsum` of two arrays, as precise as their types."""
    return jnp.einsum(pattern, x, y, precision=precision_of(x, y), **options)


@contextlib.contextmanager
def float32_products(name: str) -> Iterator[None]:
    """What is traced within has float32 products of this precision, one of `names.PRECISIONS`."""
    token = _policy.set(jax.lax.Precision[name.upper()])
    try:
        yield
    finally:
        _policy.reset(token)
