"""One update: loss on the answer's tokens, gradient of the trained part, AdamW.

Letters: B batch, G questions a window (left out when 1), n windows a group, F frames a window, D visual width, Q query
tokens, T text tokens, H LLM width, V vocabulary, P prefix tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict, FrozenConfigDict

from revision_jax.parallel.mesh import replicated
from revision_jax.parallel.programs import KEPT, Program
from revision_jax.training.optimizer import make_optimizer, make_schedule, updates_done
from revision_jax.training.state import Arrays, Module, TrainState

HEAD_BLOCK = 32  # places of a text that go through the output head together; a dense answer has about 12 tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Fixed:
    """What a step needs beside arrays; the same for a whole run. Static.

    Attributes:
      module: the model's structure.
      optimizer: over the flat dict of trained parameters.
      schedule: step -> learning rate, for the log (the optimizer has it built in).
      prefix: `[P]` int32, tokens before the video.
      seed: of the dropout keys.
      accumulate: parts of a batch whose gradients are summed one after the other, to save memory.
      skips: whether a step whose loss or gradient is not finite leaves everything but its number as it was.
    """

    module: Module
    optimizer: optax.GradientTransformation
    schedule: Callable
    prefix: np.ndarray
    seed: int
    accumulate: int = 1
    skips: bool = False


def make_fixed(
    config: ConfigDict, module: Module, multipliers: Mapping[str, float], prefix: np.ndarray, steps: int
) -> Fixed:
    """What a config says about a step; the same object for the same, so that runs alike share their programs.

    Args:
      multipliers: path of every trained parameter -> factor on the learning rate.
      steps: of the whole run, for the schedule.
    """
    prefix = tuple(np.asarray(prefix, np.int32).tolist())
    return _fixed(FrozenConfigDict(config.train), config.seed, module, tuple(multipliers.items()), prefix, steps)


@functools.lru_cache(KEPT)
def _fixed(
    train: FrozenConfigDict, seed: int, module: Module, multipliers: tuple, prefix: tuple[int, ...], steps: int
) -> Fixed:
    schedule = make_schedule(train, steps)
    optimizer = make_optimizer(train, schedule, dict(multipliers))
    prefix = np.array(prefix, np.int32)
    return Fixed(module, optimizer, schedule, prefix, seed, train.accumulate, train.skip_nonfinite > 0)


def answer_loss(
    logits: jax.Array, tokens: jax.Array, loss_mask: jax.Array, count: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Mean cross entropy (nats) and accuracy over the answer tokens of a batch, float32 scalars.

    Args:
      logits: `[B, (G,) T, V]` float32; row `i` predicts `tokens[..., i]`.
      tokens: `[B, (G,) T]` int32.
      loss_mask: `[B, (G,) T]` bool, True on answer tokens.
      count: what the sums are divided by; default: the answer tokens.
    """
    count = loss_mask.sum().astype(jnp.float32) if count is None else count
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens)
    right = (logits.argmax(-1) == tokens) & loss_mask
    # where, not a product: a non-finite loss at a masked place must not reach the sum as 0 * inf.
    return jnp.where(loss_mask, losses, 0).sum() / count, right.sum() / count


def head_loss(
    head: Callable, hidden: jax.Array, tokens: jax.Array, loss_mask: jax.Array, count: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """`answer_loss` of `head(hidden)`, the logits being made where the answers are, and in the backward pass again.

    The places of each text are sorted, answer tokens first, and go through the head in blocks of `HEAD_BLOCK`; a
    block in which no text of the batch has an answer token costs nothing.

    Args:
      head: `[..., H] -> [..., V]` logits.
      hidden: `[B, (G,) T, H]`.
    """
    count = loss_mask.sum().astype(jnp.float32) if count is None else count
    blocks = -(-tokens.shape[-1] // HEAD_BLOCK)
    size = -(-tokens.shape[-1] // blocks)
    padding = (0, blocks * size - tokens.shape[-1])
    mask = jnp.pad(loss_mask, ((0, 0),) * (tokens.ndim - 1) + (padding,))
    order = jnp.argsort(~mask, axis=-1, stable=True)
    in_blocks = lambda x: jnp.moveaxis(x.reshape(*x.shape[:-1], blocks, size), -2, 0)

    @jax.checkpoint
    def lose(hidden, places, mask):
        # What lies behind the end is masked; clipped, for a NaN would reach the gradient.
        rows = jnp.take_along_axis(hidden, places[..., None], axis=-2, mode="clip")
        return answer_loss(head(rows), jnp.take_along_axis(tokens, places, axis=-1, mode="clip"), mask, count)

    def add(total, block):
        part = jax.lax.cond(block[1].any(), lose, lambda *_: jax.tree.map(jnp.zeros_like, total), hidden, *block)
        return jax.tree.map(jnp.add, total, part), None

    zero = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lose, hidden, order[..., :size], mask[..., :size])
    )
    return jax.lax.scan(add, zero, (in_blocks(order), in_blocks(jnp.take_along_axis(mask, order, axis=-1))))[0]


def train_step(
    fixed: Fixed, state: TrainState, batch: dict[str, jax.Array], frozen: Arrays
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Pure update `state, batch -> state, metrics`.

    Args:
      batch: `tokens [B, (G,) T]` int32, `loss_mask [B, (G,) T]` bool, and what else the model takes by name:
        `video [B, F, D]`; for groups of n windows `video [B, n, F, D]`, `query [B, Q, D]`, `query_mask [B, Q]`.
      frozen: path -> array, never changed.
    Returns:
      The next state, and float32 scalars: loss, grad_norm (before clipping), learning_rate, token_accuracy; where the
      step skips, `skipped`, the steps so far that were.
    """
    dropout_key = jax.random.fold_in(jax.random.key(fixed.seed), state.step)
    (loss, accuracy), gradients = _gradients(fixed, state.trainable, batch, frozen, dropout_key)
    updates, opt_state = fixed.optimizer.update(gradients, state.opt_state, state.trainable)
    trainable = optax.apply_updates(state.trainable, updates)
    metrics = {
        "loss": loss,
        "token_accuracy": accuracy,
        "grad_norm": optax.tree.norm(gradients),
        "learning_rate": jnp.asarray(fixed.schedule(updates_done(state.opt_state)), jnp.float32),
    }
    if fixed.skips:
        sound = jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"])
        old, new = (state.trainable, state.opt_state), (trainable, opt_state)
        trainable, opt_state = jax.tree.map(lambda before, after: jnp.where(sound, after, before), old, new)
        metrics["skipped"] = (state.step + 1 - updates_done(opt_state)).astype(jnp.float32)
    return TrainState(trainable, opt_state, state.step + 1), metrics


def _gradients(fixed: Fixed, trainable: Arrays, batch, frozen: Arrays, dropout_key: jax.Array):
    """((loss, accuracy), gradient) of a batch, in `fixed.accumulate` parts of equal size."""
    gradient = jax.value_and_grad(functools.partial(_loss, fixed, frozen), has_aux=True)
    if fixed.accumulate == 1:
        return gradient(trainable, batch, dropout_key, None)
    # Every `accumulate`-th row, not a block of rows: so each device goes through its own.
    split = lambda x: x.reshape(-1, fixed.accumulate, *x.shape[1:]).swapaxes(0, 1)
    count = batch["loss_mask"].sum().astype(jnp.float32)

    def add(total, part):
        number, rows = part
        return jax.tree.map(
            jnp.add, total, gradient(trainable, rows, jax.random.fold_in(dropout_key, number), count)
        ), None

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradient, trainable, batch, dropout_key, count)
    )
    return jax.lax.scan(add, zeros, (jnp.arange(fixed.accumulate), jax.tree.map(split, batch)))[0]


def validation_step(
    fixed: Fixed, trainable: Arrays, batch: dict[str, jax.Array], frozen: Arrays
) -> dict[str, jax.Array]:
    """Sums over the answer tokens of a held-out batch, without dropout: `loss`, `right` and `tokens`, float32 scalars.

    Args:
      batch, frozen: as in `train_step`.
    """
    tokens = batch["loss_mask"].sum().astype(jnp.float32)
    loss, accuracy = _loss(fixed, frozen, trainable, batch, None, None)
    return {"loss": loss * tokens, "right": accuracy * tokens, "tokens": tokens}


def answer_step(fixed: Fixed, trainable: Arrays, batch: dict[str, jax.Array], frozen: Arrays) -> jax.Array:
    """The batch's tokens `[B, (G,) T]` int32 with the model's answers, likeliest tokens, in place of the right ones.

    So many tokens are made as the longest right answer has; what lies behind the end of an answer means nothing.

    Args:
      batch, frozen: as in `train_step`; `tokens` and `loss_mask` say where an answer begins.
    """
    model = fixed.module.merge(trainable, frozen)
    mask, others = batch["loss_mask"], {k: x for k, x in batch.items() if k not in ("loss_mask", "tokens")}
    first = mask.argmax(-1, keepdims=True)  # [B, (G,) 1]

    def add(number, tokens):
        hidden = model.hidden(fixed.prefix, **others, tokens=tokens, dropout_key=None)  # [B, (G,) T, H]
        place = jnp.minimum(first + number, tokens.shape[-1] - 1)
        likeliest = model.logits(jnp.take_along_axis(hidden, place[..., None], axis=-2)).argmax(-1)
        return jnp.where(jnp.arange(tokens.shape[-1]) == place, likeliest.astype(tokens.dtype), tokens)

    return jax.lax.fori_loop(0, mask.sum(-1).max(), add, batch["tokens"])


def _loss(fixed: Fixed, frozen: Arrays, trainable: Arrays, batch, dropout_key: jax.Array | None, count):
    model = fixed.module.merge(trainable, frozen)
    seen = {name: array for name, array in batch.items() if name != "loss_mask"}
    hidden = model.hidden(fixed.prefix, **seen, dropout_key=dropout_key)  # [B, (G,) T, H]
    return head_loss(model.logits, hidden, batch["tokens"], batch["loss_mask"], count)


def compile_step(fixed: Fixed, shardings: TrainState) -> Program:
    """The jitted step `(state, batch, frozen)`; `state` is donated and comes back where it was."""
    return Program(train_step, fixed, donate_argnums=0, out_shardings=(shardings, shardings.step))


def compile_validation(fixed: Fixed) -> Program:
    """The jitted `validation_step(trainable, batch, frozen)`."""
    return Program(validation_step, fixed)


def compile_answers(fixed: Fixed, mesh: jax.sharding.Mesh) -> Program:
    """The jitted `answer_step(trainable, batch, frozen)`, whose result every host has."""
    return Program(answer_step, fixed, out_shardings=replicated(mesh))
