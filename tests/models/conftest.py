"""Tiny modules with wide random weights, drawn by numpy: jax.random compiles a program a shape."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx


@pytest.fixture(scope="session")
def draw():
    """`draw(build, std)`: the module that `build()` makes, every parameter N(0, std), norm scales around 1."""

    def fill(build, std=0.2):
        module = nnx.eval_shape(build)
        rng = np.random.default_rng(0)
        for path, param in nnx.to_flat_state(nnx.state(module, nnx.Param)):
            values = std * rng.standard_normal(param.shape) + (path[-1] == "scale")
            param.set_value(jnp.asarray(values, param.dtype))
        return module

    return fill
