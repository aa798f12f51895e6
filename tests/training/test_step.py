"""The train step: loss on answer tokens, frozen parts untouched, dropout, one compilation."""

import dataclasses
import functools
import math

import fake_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from revision_jax.parallel.mesh import make_mesh
from revision_jax.training import loop, step
from revision_jax.training.step import answer_loss


def test_loss_and_accuracy_by_hand():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]]))
    tokens, mask = jnp.array([[2, 1, 0]]), jnp.array([[False, True, True]])
    loss, accuracy = answer_loss(logits, tokens, mask)
    assert loss == pytest.approx(-(np.log(0.7) + np.log(0.1)) / 2, rel=1e-6)
    assert accuracy == 0.5
    assert loss.dtype == jnp.float32


def test_masked_places_do_not_matter():
    tokens, mask = jnp.zeros((1, 2), int), jnp.array([[True, False]])
    logits = jnp.zeros((1, 2, 4)).at[0, 1].set(jnp.array([jnp.inf, 0, 0, 0]))
    assert answer_loss(logits, tokens, mask)[0] == pytest.approx(np.log(4))


@pytest.mark.parametrize("texts, count", [((), None), ((2,), 7.0)])
def test_the_head_at_answers_alone_gives_the_loss_and_gradients_of_the_whole(texts, count):
    length, width, words = 3 * step.HEAD_BLOCK - 2, 4, 9
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (3, *texts, length)
    hidden, kernel = jax.random.normal(keys[0], (*shape, width)), jax.random.normal(keys[1], (width, words))
    tokens = jax.random.randint(keys[2], shape, 0, words)
    made = []  # rows of logits, told at run time

    def head(kernel, rows):
        jax.debug.callback(lambda x: made.append(x.size // width), rows)
        return rows @ kernel

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def of_answers(hidden, kernel, mask):
        return step.head_loss(functools.partial(head, kernel), hidden, tokens, mask, count)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def of_all(hidden, kernel, mask):
        return answer_loss(hidden @ kernel, tokens, mask, count)

    few = jax.random.bernoulli(keys[3], 0.1, shape)
    blocks = {"few": (few, 1), "none in a text": (few.at[0].set(False), 1), "all": (jnp.ones(shape, bool), 3)}
    for name, (mask, needed) in blocks.items():
        assert int(mask.sum(-1).max()) <= needed * step.HEAD_BLOCK
        made.clear()
        found = jax.block_until_ready(of_answers(hidden, kernel, mask))
        jax.effects_barrier()
        # Twice each: in the backward pass they are made again.
        assert made == [3 * math.prod(texts) * -(-length // 3)] * 2 * needed, name
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(of_all(hidden, kernel, mask)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7, err_msg=name)


def start(**changes):
    config = fake_run.make_config(**changes)
    task = fake_run.make_task(config)
    mesh = make_mesh(devices=jax.devices()[:1])
    batch = dict(next(iter(task.batches)))
    batch.pop("record_id")
    return loop.build(config, task, mesh), batch


def copied(tree):
    return jax.tree.map(np.array, tree)


def test_learns_one_batch_and_leaves_the_frozen_alone():
    (parts, state), batch = start(train__steps=60)
    frozen, before, first = copied(parts.frozen), copied(state.trainable), state.trainable.copy()
    losses = []
    for _ in range(60):
        state, metrics = parts.step_fn(state, batch, parts.frozen)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.3 * losses[0] and metrics["token_accuracy"] > 0.9
    assert state.trainable.keys() == {"llm/layers/lora_a", "llm/layers/lora_b"}
    assert all(np.any(before[path] != copied(state.trainable)[path]) for path in before)
    jax.tree.map(np.testing.assert_array_equal, frozen, copied(parts.frozen))
    assert int(state.step) == 60 and parts.step_fn.compile_count == 1
    # The state is donated, the frozen part is not.
    assert all(array.is_deleted() for array in first.values())
    assert not any(array.is_deleted() for array in parts.frozen.values())


def test_dropout_depends_on_seed_and_step():
    (parts, state), batch = start(lora__dropout=0.3)
    # With B = 0 dropout acts on nothing; give it something to drop.
    state.trainable["llm/layers/lora_b"] += 0.3
    later = dataclasses.replace(state, step=state.step + 1)

    def loss(step_fn, state):
        return float(step_fn(jax.tree.map(jnp.copy, state), batch, parts.frozen)[1]["loss"])

    assert loss(parts.step_fn, state) == loss(parts.step_fn, state)
    assert loss(parts.step_fn, state) != loss(parts.step_fn, later)
    (reseeded, _), _ = start(lora__dropout=0.3, seed=1)
    assert loss(parts.step_fn, state) != loss(reseeded.step_fn, state)


def test_metrics_are_those_of_the_plain_formulas():
    (parts, state), batch = start(lora__dropout=0.0)
    arrays = copied(state.trainable)

    def loss(trainable):
        logits = parts.module.merge(trainable, parts.frozen)(np.arange(fake_run.P), batch["video"], batch["tokens"])
        return answer_loss(logits, batch["tokens"], batch["loss_mask"])[0]

    expected, gradients = jax.jit(jax.value_and_grad(loss))(arrays)
    norm = np.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
    _, metrics = parts.step_fn(state, batch, parts.frozen)
    assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    # 12 steps, warm-up of 0.1 is two steps: the first runs at a third of the peak.
    assert float(metrics["learning_rate"]) == pytest.approx(3e-2 / 3)


def test_parts_of_a_batch_give_the_gradient_of_the_whole():
    whole, batch = start(lora__dropout=0.0, train__batch_size=8)
    in_parts, _ = start(lora__dropout=0.0, train__batch_size=8, train__accumulate=4)
    # Rows with few and with many answer tokens: a mean of means would differ.
    batch["loss_mask"] = batch["loss_mask"] & (np.arange(fake_run.T) >= np.arange(8)[:, None])
    results = []
    for parts, state in (whole, in_parts):
        state.trainable["llm/layers/lora_b"] += 0.3
        results.append(parts.step_fn(state, batch, parts.frozen))
    (one, one_metrics), (other, other_metrics) = results
    for name, value in one_metrics.items():
        assert float(other_metrics[name]) == pytest.approx(float(value), rel=1e-5), name
    for path, array in one.trainable.items():
        np.testing.assert_allclose(other.trainable[path], array, rtol=1e-4, atol=1e-6)
