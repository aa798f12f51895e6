"""Backends against XLA attention where they run here, the choice of backend, the shared-prefix merge."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from revision_jax.models import attention as module
from revision_jax.models.attention import attention, prefix_attention, select_backend
from tests.forced_devices import run_python

SHARDED_SPLASH = """
import functools
import jax
import numpy as np
from revision_jax.models import attention
from revision_jax.parallel.mesh import make_mesh

attention._splash = functools.partial(attention._splash, interpret=True)
rng = np.random.default_rng(0)
q, k, v = (rng.standard_normal((2, 128, 4, 128), np.float32) for _ in range(3))
wanted = attention.attention(q, k, v, causal=True, backend="xla")
with jax.set_mesh(make_mesh(2, 1, 2)):
    found = jax.jit(lambda *x: attention._on_own_part(lambda q, k, v, mask: attention._splash(q, k, v), *x))(q, k, v)
assert [shard.data.shape for shard in found.addressable_shards] == [(1, 128, 2, 128)] * 4
np.testing.assert_allclose(found, wanted, atol=2e-5)
"""


def draw(shape, seed, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def plain(q, k, v, mask):
    """The definition, in numpy: q [B, T, N, D], k and v [B, S, K, D], mask [B, T, S]."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("btnd,bsnd->bnts", q, k) / np.sqrt(q.shape[-1])
    scores = np.where(np.asarray(mask)[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bnts,bsnd->btnd", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_xla_equals_the_definition_for_grouped_heads(key_heads):
    q, k, v = draw((2, 5, 4, 8), 0), draw((2, 5, key_heads, 8), 1), draw((2, 5, key_heads, 8), 2)
    causal = np.broadcast_to(np.tril(np.ones((5, 5), bool)), (2, 5, 5))
    for backend in ("xla", "auto"):
        np.testing.assert_allclose(attention(q, k, v, causal=True, backend=backend), plain(q, k, v, causal), atol=1e-5)
    mask = np.random.default_rng(0).random((2, 5, 5)) < 0.5
    mask[..., 0] = True
    np.testing.assert_allclose(attention(q, k, v, mask=jnp.asarray(mask)[:, None]), plain(q, k, v, mask), atol=1e-5)


def test_splash_equals_xla_in_value_and_gradient():
    """Grouped heads, and a length that is padded to two blocks; run by Pallas' interpreter."""
    q, k, v = draw((1, 200, 2, 128), 0), draw((1, 200, 1, 128), 1), draw((1, 200, 1, 128), 2)
    weight = draw(q.shape, 3)

    @functools.partial(jax.jit, static_argnums=0)
    def grad(run):
        def loss(q, k, v):
            out = run(q, k, v)
            return (out * weight).sum(), out

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)

    found, found_out = grad(functools.partial(module._splash, interpret=True))
    wanted, wanted_out = grad(functools.partial(attention, causal=True, backend="xla"))
    np.testing.assert_allclose(found_out, wanted_out, atol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, wanted)


def test_splash_is_split_over_rows_and_heads_of_the_mesh():
    """On four forced CPU devices, in a process of its own."""
    run_python(SHARDED_SPLASH, 4)


def test_auto_takes_the_kernel_of_the_platform_where_it_applies():
    half, full = draw((1, 8, 2, 128), 0, jnp.bfloat16), draw((1, 8, 2, 128), 0)
    choose = lambda platform, q, causal=True, masked=False: select_backend(
        "auto", platform, q, q, causal=causal, masked=masked
    )
    assert choose("gpu", half) == "cudnn" and choose("gpu", half, causal=False, masked=True) == "cudnn"
    assert choose("gpu", full) == "xla" and choose("gpu", half[..., :12]) == "xla"
    assert choose("gpu", half[:, :7]) == "cudnn" and choose("gpu", half[:, :7], masked=True) == "cudnn"
    assert choose("tpu", half) == "splash" and choose("tpu", full) == "splash"
    assert choose("tpu", half, causal=False) == "xla" and choose("tpu", half[..., :64]) == "xla"
    assert choose("cpu", half) == "xla"


@pytest.mark.parametrize(
    "backend, platform, message",
    [
        ("cudnn", "cpu", "platform is cpu, it needs gpu"),
        ("cudnn", "gpu", "dtype is float32"),
        ("splash", "cpu", "platform is cpu, it needs tpu"),
        ("splash", "tpu", "causal self-attention"),
        ("flash", "gpu", "expected one of"),
    ],
)
def test_a_backend_asked_for_that_cannot_run_raises(backend, platform, message):
    q = draw((1, 8, 2, 128), 0)
    with pytest.raises(ValueError, match=message):
        select_backend(backend, platform, q, q, causal=False, masked=False)


def test_the_call_itself_refuses_a_backend_of_another_platform():
    q = draw((1, 4, 2, 8), 0)
    with pytest.raises(ValueError, match="cannot run here"):
        attention(q, q, q, causal=True, backend="splash")


@pytest.mark.parametrize("prefixes", [1, 2, 4])
def test_prefix_attention_equals_attention_over_the_copied_prefix(prefixes):
    q = draw((4, 3, 4, 8), 0)
    prefix = (draw((prefixes, 6, 2, 8), 1), draw((prefixes, 6, 2, 8), 2))
    suffix = (draw((4, 5, 2, 8), 3), draw((4, 5, 2, 8), 4))
    mask = np.random.default_rng(0).random((4, 3, 5)) < 0.5
    mask[0, 0] = False  # a query that sees the prefix alone
    copied = [np.concatenate([np.repeat(p, 4 // prefixes, 0), s], 1) for p, s in zip(prefix, suffix)]
    whole = np.concatenate([np.ones((4, 3, 6), bool), mask], -1)
    np.testing.assert_allclose(
        jax.jit(prefix_attention)(q, prefix, suffix, jnp.asarray(mask)), plain(q, *copied, whole), atol=2e-6
    )


def test_prefix_attention_without_a_prefix_and_with_an_uneven_one():
    q, kv = draw((3, 2, 2, 8), 0), draw((3, 4, 2, 8), 1)
    mask = jnp.ones((3, 2, 4), bool)
    np.testing.assert_allclose(jax.jit(prefix_attention)(q, None, (kv, kv), mask), plain(q, kv, kv, mask), atol=2e-6)
    with pytest.raises(ValueError, match="3 rows cannot share 2 prefixes"):
        prefix_attention(q, (kv[:2], kv[:2]), (kv, kv), mask)
