"""Taking a model apart by path, and putting its parts on the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fake_run import FakeGrounder
from flax import nnx

from revision_jax.parallel.mesh import make_mesh
from revision_jax.training.state import init_state, split_by_table, take_apart

TABLE = (("llm/layers/lora_.*", 2.0), (".*", "frozen"))
PREFIX, VIDEO, TOKENS = np.arange(3), np.ones((2, 6, 8), np.float32), np.ones((2, 5), np.int32)


@pytest.fixture
def model():
    return FakeGrounder(jax.random.key(0))


def test_paths_and_merge(model):
    module, arrays = take_apart(model)
    assert set(arrays) == {
        "llm/embedding",
        "llm/layers/kernel",
        "llm/layers/lora_a",
        "llm/layers/lora_b",
        "adapter/kernel",
    }
    trainable, frozen, multipliers = split_by_table(arrays, TABLE)
    assert multipliers == {"llm/layers/lora_a": 2.0, "llm/layers/lora_b": 2.0}
    assert trainable.keys() | frozen.keys() == arrays.keys() and not trainable.keys() & frozen.keys()
    again = module.merge(trainable, frozen)
    np.testing.assert_array_equal(again(PREFIX, VIDEO, TOKENS), model(PREFIX, VIDEO, TOKENS))


def test_the_structure_holds_no_arrays(model):
    module, _ = take_apart(model)
    assert all(isinstance(v.get_value(), jax.ShapeDtypeStruct) for v in module.variables.values())


def test_trained_parameters_are_float32(model):
    _, arrays = take_apart(model)
    arrays["llm/layers/lora_a"] = arrays["llm/layers/lora_a"].astype(jnp.bfloat16)
    with pytest.raises(ValueError, match=r"must be float32.*lora_a"):
        split_by_table(arrays, TABLE)


def test_a_variable_that_is_no_parameter_is_refused(model):
    model.counter = nnx.Variable(jnp.zeros(()))
    with pytest.raises(ValueError, match=r"counter.*not nnx.Param"):
        take_apart(model)


def test_moments_lie_where_their_parameter_does(model):
    mesh = make_mesh(devices=jax.devices()[:1])
    module, arrays = take_apart(model)
    shardings = module.shardings(mesh)
    trainable, _, _ = split_by_table(arrays, (("llm/.*", 1.0), ("adapter/.*", "frozen")))
    state, where = init_state(trainable, optax.adam(1e-3), shardings, mesh)
    # The step donates its state: the model's own buffers must not be in it.
    pointers = lambda arrays: {array.unsafe_buffer_pointer() for array in arrays.values()}
    assert not pointers(state.trainable) & pointers(trainable)
    assert state.opt_state[0].mu["llm/layers/kernel"].sharding == shardings["llm/layers/kernel"]
    assert where.opt_state[0].nu["llm/layers/kernel"] == shardings["llm/layers/kernel"]
    assert jax.tree.structure(where) == jax.tree.structure(state)
    assert int(state.step) == 0
