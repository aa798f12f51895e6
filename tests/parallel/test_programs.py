"""Programs of equal structure share what is compiled; others do not."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax.parallel.programs import Program, forget
from revision_jax.training.state import take_apart


def apply(module, factor, arrays, x):
    return factor * module.merge(arrays)(x)


def model(seed, outputs=3):
    return nnx.Linear(2, outputs, rngs=nnx.Rngs(seed))


def test_models_of_one_structure_compile_once():
    forget()
    x = jnp.ones((4, 2))
    counts = []
    for seed, outputs, factor in [(0, 3, 2), (1, 3, 2), (1, 5, 2), (1, 3, 4)]:
        layer = model(seed, outputs)
        module, arrays = take_apart(layer)
        program = Program(apply, module, factor)
        for _ in range(2):
            np.testing.assert_allclose(program(arrays, x), factor * layer(x), rtol=1e-6)
        counts.append(program.compile_count)
    assert counts == [1, 0, 1, 1]
    module, arrays = take_apart(model(0))
    program = Program(apply, module, 2)
    program(arrays, jnp.ones((8, 2)))  # another shape
    assert program.compile_count == 1


def test_what_was_forgotten_is_compiled_again_and_what_is_in_use_stays():
    module, arrays = take_apart(model(0))
    program = Program(apply, module, 7)
    program(arrays, jnp.ones((4, 2)))
    forget()
    program(arrays, jnp.ones((4, 2)))
    assert program.compile_count == 1
    other = Program(apply, module, 7)
    other(arrays, jnp.ones((4, 2)))
    assert other.compile_count == 1


def test_a_module_is_known_by_its_structure_and_shapes():
    one, other = take_apart(model(0))[0], take_apart(model(1))[0]
    assert one == other and hash(one) == hash(other)
    wide = take_apart(model(0, 5))[0]
    assert one != wide and one != take_apart(nnx.Linear(2, 3, use_bias=False, rngs=nnx.Rngs(0)))[0]
