"""Attention over packed texts against the mask that says who sees whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from revision_jax.models.attention import attention
from revision_jax.models.packing import Packing, packed_attention

PACKING = Packing(start=3, texts=2, length=4)


def test_positions_and_mask_by_hand():
    packing = Packing(start=2, texts=2, length=2)
    assert packing.positions.tolist() == [0, 1, 2, 3, 2, 3]
    seen = ["100000", "110000", "111000", "111100", "110010", "110011"]
    assert packing.mask.astype(int).tolist() == [[int(x) for x in row] for row in seen]


@pytest.mark.parametrize("key_heads", [1, 4])
def test_texts_as_rows_equal_the_mask_in_value_and_gradient(key_heads):
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 11, heads, 8)), jnp.float32) for heads in (4, key_heads, key_heads))
    weight = jnp.asarray(rng.standard_normal(q.shape), jnp.float32)
    masked = lambda q, k, v: attention(q, k, v, mask=PACKING.mask, backend="xla")
    packed = lambda q, k, v: packed_attention(q, k, v, PACKING, backend="auto")
    np.testing.assert_allclose(jax.jit(packed)(q, k, v), jax.jit(masked)(q, k, v), atol=1e-6)
    gradient = lambda call: jax.jit(jax.grad(lambda *x: (call(*x) * weight).sum(), argnums=(0, 1, 2)))(q, k, v)
    for found, wanted in zip(gradient(packed), gradient(masked)):
        np.testing.assert_allclose(found, wanted, atol=2e-6)
