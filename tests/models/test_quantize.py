"""int8 kernels: how near they are, and that a model uses them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from revision_jax.models.layers import Stack, zeros
from revision_jax.models.llama import Llama, LlamaConfig
from revision_jax.models.lora import Features, LoRAConfig, LoRALinear
from revision_jax.models.quantize import quantize, with_scales

SIZES = LlamaConfig(32, 16, 24, num_layers=2, num_heads=2, num_kv_heads=2, head_dim=8)


def test_rounding_is_at_most_half_a_step_of_its_channel():
    kernel = np.random.default_rng(0).normal(size=(3, 40, 5)).astype(np.float32) * np.array([1, 10, 1e-3, 1, 0])
    values, scale = quantize(kernel)
    assert values.dtype == np.int8 and scale.shape == (3, 5) and np.abs(values).max() == 127
    assert (np.abs(values * scale[:, None] - kernel) <= scale[:, None] * 0.5001).all()
    assert not values[..., 4].any() and not scale[..., 4].any()


@pytest.fixture(scope="module")
def pair():
    """A Llama and the same one in 8 bits."""
    lora = LoRAConfig(2, 4.0, 0.0, ("q_proj", "down_proj"))
    make = lambda: Llama(SIZES, lora=lora, rngs=nnx.Rngs(0))
    wide, narrow, scales = make(), make(), {}
    for path, param in nnx.to_flat_state(nnx.split(narrow.layers)[1]):
        if path[-1] == "kernel":
            owner = getattr(getattr(narrow.layers, path[0]), path[1])
            values, scale = quantize(np.asarray(param.get_value()))
            owner.kernel.set_value(jnp.asarray(values))
            scales["layers/" + "/".join(map(str, path)) + "_scale"] = jnp.asarray(scale)
    assert len(scales) == 7
    return wide, with_scales(narrow, scales)


def test_hidden_states_stay_near(pair):
    x = jax.random.normal(jax.random.key(1), (2, 9, 16))
    one, other = pair[0](x), pair[1](x)
    assert 1e-6 < float(jnp.abs(one - other).max()) < 0.05
    cache = pair[1].prefill(x)[1]
    assert cache.k.dtype == jnp.float32


def test_kernels_are_a_byte_each_and_lora_is_not(pair):
    q_proj = pair[1].layers.self_attn.q_proj
    assert q_proj.kernel[...].dtype == jnp.int8 and q_proj.lora_a[...].dtype == jnp.float32
    merged, expected = q_proj.merge(), pair[0].layers.self_attn.q_proj.merge()
    assert merged.dtype == jnp.float32
    np.testing.assert_allclose(merged, expected, atol=float(jnp.abs(expected).max()) / 127)


def test_scales_are_not_rounded_to_the_type_that_the_model_computes_in():
    narrow = Stack(None, jnp.bfloat16, jnp.int8)
    layer = LoRALinear(Features(1, 64), ("embed", "mlp"), init=zeros, rngs=nnx.Rngs(0), stack=narrow)
    scale = np.linspace(0.001, 0.002, 64, dtype=np.float32)
    layer.kernel.set_value(jnp.full((1, 64), 100, jnp.int8))
    layer.kernel_scale.set_value(jnp.asarray(scale))
    found = np.asarray(layer(jnp.ones((1, 1))), np.float32)[0]
    np.testing.assert_array_equal(found, np.asarray(jnp.asarray(100 * scale).astype(jnp.bfloat16), np.float32))
