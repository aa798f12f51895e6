"""The sparse adapter against a measured case of the published arithmetic, and both adapters' properties."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from revision_jax.interop.adapter import sparse_adapter_from
from revision_jax.models.adapter import DenseAdapter, SparseAdapter, frame_positions

GOLDEN = Path(__file__).parent / "data" / "adapter_golden.safetensors"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def adapter(golden):
    prefix = "weights."
    return sparse_adapter_from(
        {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    )


@pytest.fixture(scope="module")
def inputs(golden):
    return golden["video"], golden["text"], golden["text_mask"]


def test_sparse_equals_the_measured_case(golden, adapter, inputs):
    sparse, encoded = jax.jit(lambda *x: (adapter(*x), adapter.encode(*x)))(*inputs)
    np.testing.assert_allclose(sparse, golden["sparse"], atol=1e-5)
    np.testing.assert_allclose(adapter.mm_projector(encoded[:, 1:]), golden["temporal"], atol=1e-5)


def test_masked_text_is_not_seen_and_half_precision_features_are_taken(adapter, inputs):
    video, text, mask = inputs
    run = jax.jit(adapter)
    wanted = run(video, text, mask)
    junk = np.where(mask[..., None] > 0, text, 100)
    np.testing.assert_allclose(run(video, junk, mask), wanted, atol=1e-6)
    half = run(video.astype(np.float16), text.astype(np.float16), mask.astype(bool))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, wanted, atol=2e-2)


def test_dropout_is_on_with_a_key_only_and_off_at_rate_zero(adapter, inputs, draw):
    run = jax.jit(lambda key: adapter(*inputs, dropout_key=key))
    one, same, other = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(one, same)
    assert float(jnp.abs(one - other).max()) > 1e-3
    off = draw(lambda: SparseAdapter(48, 8, mlp_width=8, num_heads=4, dropout=0.0, rngs=nnx.Rngs(0)))
    with_key = jax.jit(lambda *x: off(*x, dropout_key=jax.random.key(0)))(*inputs)
    np.testing.assert_array_equal(with_key, jax.jit(off)(*inputs))


def test_positions_follow_the_formula():
    found = frame_positions(5, 6)
    for t in range(1, 6):
        for i in range(6):
            angle = t / (5 + 1e-6) * 2 * np.pi / 10000 ** (2 * (i // 2) / 6)
            wanted = np.sin(angle) if i % 2 == 0 else np.cos(angle)
            np.testing.assert_allclose(found[t - 1, i], wanted, atol=1e-6)


def test_initialisation_is_xavier_a_layer_and_trains_every_parameter(inputs):
    video, text, mask = (jnp.asarray(x[:2]) for x in inputs)
    module = SparseAdapter(48, 40, mlp_width=96, rngs=nnx.Rngs(0))
    bound = np.sqrt(6 / (48 + 3 * 48))
    largest = np.abs(module.encoder.in_proj.kernel[...]).max((1, 2))
    assert (0.95 * bound < largest).all() and (largest <= bound).all()
    graphdef, params = nnx.split(module)
    target = jax.random.normal(jax.random.key(1), (2, 40))
    loss = lambda params: ((nnx.merge(graphdef, params)(video, text, mask) - target) ** 2).mean()
    gradients = jax.jit(jax.grad(loss))(params)
    for path, gradient in nnx.to_flat_state(gradients):
        assert np.abs(gradient[...]).max() > 0, path


def test_dense_is_one_linear_layer_a_frame():
    module = DenseAdapter(6, 4, rngs=nnx.Rngs(0))
    video = np.random.default_rng(0).standard_normal((2, 3, 6)).astype(np.float16)
    wanted = video.astype(np.float32) @ np.asarray(module.kernel[...]) + np.asarray(module.bias[...])
    np.testing.assert_allclose(module(video), wanted, atol=1e-6)
    assert module(video).dtype == jnp.float32


def test_wrong_widths_raise(adapter):
    with pytest.raises(ValueError, match="two encoders"):
        adapter(jnp.ones((1, 2, 48)), jnp.ones((1, 2, 32)), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="multiple of num_heads"):
        SparseAdapter(20, 8, rngs=nnx.Rngs(0))
