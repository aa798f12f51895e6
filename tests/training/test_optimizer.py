"""The trainable table, the schedule, and AdamW against optax's own."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from revision_jax import config as configs
from revision_jax.training.optimizer import FROZEN, assign, describe_table, make_optimizer, make_schedule

PATHS = ["llm/layers/mlp/up_proj/kernel", "llm/layers/mlp/up_proj/lora_a", "adapter/kernel"]


def test_first_matching_row_wins():
    table = (("llm/.*/lora_[ab]", 0.5), ("llm/.*", FROZEN), ("adapter/.*", 1.0))
    assert assign(PATHS, table) == dict(zip(PATHS, [FROZEN, 0.5, 1.0]))


@pytest.mark.parametrize(
    "table, message",
    [
        ((("llm/.*", 1.0),), r"no row of `trainable` matches \['adapter/kernel'\]"),
        ((("lora_a", 1.0), (".*", FROZEN)), r"match no parameter.*\['lora_a'\]"),  # the whole path must match
        ((("llm/.*", 1.0), ("llm/.*/lora_a", 2.0), ("adapter/.*", FROZEN)), r"match no parameter.*lora_a"),
        (((".*", FROZEN),), "freezes every parameter"),
    ],
)
def test_table_errors(table, message):
    with pytest.raises(ValueError, match=message):
        assign(PATHS, table)


def test_the_table_is_told_with_counts():
    table = (("llm/.*/lora_[ab]", 0.5), ("llm/.*", FROZEN), ("adapter/.*", 1.0))
    arrays = dict(zip(PATHS, [np.zeros((40, 50)), np.zeros((40, 2)), np.zeros((6, 4))]))
    heading, *rows, total = [line.split() for line in describe_table(arrays, table).splitlines()]
    assert heading == ["parameters", "learning", "rate", "arrays", "count"]
    assert rows == [
        ["llm/.*/lora_[ab]", "x", "0.5", "1", "80"],
        ["llm/.*", "frozen", "1", "2,000"],
        ["adapter/.*", "x", "1", "1", "24"],
    ]
    assert " ".join(total) == "104 trained, 2,000 frozen"


def test_schedule_warms_up_then_falls_to_zero():
    train = ConfigDict(dict(learning_rate=1.0, warmup_ratio=0.1))
    rates = [float(make_schedule(train, 100)(step)) for step in range(101)]
    assert 0 < rates[0] < rates[5] < rates[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:])) and rates[100] == pytest.approx(0, abs=1e-7)
    assert rates[55] == pytest.approx(0.5)  # halfway down the cosine


def test_schedule_of_one_step_is_finite():
    assert float(make_schedule(ConfigDict(dict(learning_rate=1.0, warmup_ratio=0.0)), 1)(0)) == 1.0


def updates(overrides=(), multipliers=None, scale=1.0):
    train = configs.load(overrides=overrides).train
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0]])}
    optimizer = make_optimizer(train, lambda step: train.learning_rate, multipliers or {"a": 1.0, "b": 1.0})
    state = optimizer.init(params)
    for step in range(3):
        gradients = jax.tree.map(lambda p, k=step: scale * jnp.cos(p + k), params)
        update, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, update)
    return train, params


def test_equals_optax_adamw_without_clipping():
    train, ours = updates(["train.weight_decay=0.1", "train.clip_norm=1e9"])
    reference = optax.adamw(train.learning_rate, train.b1, train.b2, train.eps, weight_decay=0.1)
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0]])}
    state = reference.init(params)
    for step in range(3):
        gradients = jax.tree.map(lambda p, k=step: jnp.cos(p + k), params)
        update, state = reference.update(gradients, state, params)
        params = optax.apply_updates(params, update)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, params)


def test_multiplier_scales_the_update_of_its_path_alone():
    start = np.array([1.0, -2.0])
    _, one = updates(["train.clip_norm=1e9"])
    _, half = updates(["train.clip_norm=1e9"], {"a": 0.0, "b": 1.0})
    np.testing.assert_array_equal(half["a"], start)
    np.testing.assert_array_equal(half["b"], one["b"])


def test_gradients_are_clipped_by_their_global_norm():
    # eps is large here, so that Adam's own scaling does not hide the clip.
    _, small = updates(["train.clip_norm=0.01", "train.eps=1.0"])
    _, large = updates(["train.clip_norm=0.01", "train.eps=1.0"], scale=1e3)
    _, free = updates(["train.clip_norm=1e9", "train.eps=1.0"], scale=1e3)
    np.testing.assert_allclose(small["b"], large["b"], rtol=1e-6)
    assert abs(free["b"] - large["b"]).item() > 1e-4
