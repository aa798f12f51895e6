"""Stacks: scanned layers equal a loop, and remat policies change nothing but memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from revision_jax.models.layers import (
    REMAT,
    LayerNorm,
    Linear,
    Stack,
    normal,
    parameter,
    save_name,
    scan_layers,
)


def stack(num_layers=3, width=4):
    return Linear((width, width), ("embed", "mlp"), init=normal(0.5), stack=Stack(num_layers), rngs=nnx.Rngs(0))


def test_scan_equals_loop_over_the_layer_axis():
    layers, x = stack(), jnp.arange(8.0).reshape(2, 4)
    last, states = scan_layers(layers, lambda layer, h, _: (jnp.tanh(layer(h)), h), x)
    expected = x
    for index in range(3):
        np.testing.assert_allclose(states[index], expected, rtol=1e-5, atol=1e-6)
        expected = jnp.tanh(expected @ layers.kernel[index] + layers.bias[index])
    np.testing.assert_allclose(last, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("remat", sorted(REMAT))
def test_remat_keeps_the_gradient(remat):
    graphdef, params = nnx.split(stack())

    def loss(params, remat):
        step = lambda layer, h, _: (save_name(jnp.tanh(layer(h)), "attention"), None)
        return scan_layers(nnx.merge(graphdef, params), step, jnp.ones((2, 4)), remat=remat)[0].sum()

    wanted, found = (jax.grad(loss)(params, policy) for policy in ("none", remat))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), wanted, found)


def test_names_saves_only_what_is_named():
    graphdef, params = nnx.split(stack(num_layers=1))

    def saved(remat):
        def loss(params):
            step = lambda layer, h, _: (jnp.sin(save_name(jnp.cos(layer(h)), "query")), None)
            return scan_layers(nnx.merge(graphdef, params), step, jnp.ones((5, 4)), remat=remat)[0].sum()

        _, backward = jax.vjp(loss, params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    assert saved("full") < saved("names") < saved("none")


def test_unknown_names_raise():
    with pytest.raises(ValueError, match="remat is 'some'"):
        scan_layers(stack(), lambda layer, h, _: (h, None), jnp.ones((2, 4)), remat="some")
    with pytest.raises(ValueError, match="activation name"):
        save_name(jnp.ones(()), "typo")
    with pytest.raises(ValueError, match="one axis name a dimension"):
        parameter(nnx.Rngs(0), normal(1.0), (2, 3), ("embed",))


def test_layer_norm_is_float32_inside_and_dtype_outside():
    norm = LayerNorm(8, axis="norm", stack=Stack(dtype=jnp.bfloat16), rngs=nnx.Rngs(0))
    x = jnp.linspace(100, 101, 8, dtype=jnp.float32)[None]
    y = norm(x)
    assert y.dtype == jnp.bfloat16 and norm.scale.dtype == jnp.float32
    expected = (x - x.mean()) / jnp.sqrt(x.var() + 1e-5)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=1e-2)
