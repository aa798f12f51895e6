"""The tiny LLM: its size, how it starts, and the pure train step on lookups.

Letters: B videos, F frames, A words of `attributes.WORDS`, T text tokens, H width.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from transformers import PreTrainedTokenizerBase

from revision_jax.interop.table import flat_params
from revision_jax.models.llama import KVCache, Llama, LlamaConfig
from revision_jax.pretrain import attributes
from revision_jax.pretrain.lookup_batches import make_encoder
from revision_jax.pretrain.lookup_losses import match_loss, word_loss
from revision_jax.pretrain.lookup_world import CHANGES

CHANGE_LAYER = 2  # blocks after which a frame shows what changes
MATCH_LAYER = 3  # blocks after which a frame says its number, and a question is like the frames that it asks for
MATCH_WEIGHT, NUMBER_WEIGHT = 2.0, 0.5
NUMBERS = tuple(f"{n:02d}" for n in range(100))
ARRAYS = ("weights", "changes", "said", "tokens", "loss_weights", "looking", "shown")  # what the step needs of a batch


class Fixed(NamedTuple):
    """Tokens that are the same in every step.

    Attributes:
      prefix: [P] int32, the prompt before the video.
      word_ids: [A] int32, tokens of `attributes.WORDS`; change_ids: of CHANGES; number_ids: of NUMBERS.
    """

    prefix: jax.Array
    word_ids: jax.Array
    change_ids: jax.Array
    number_ids: jax.Array

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> "Fixed":
        """Those of a tokenizer in which every word is one token."""
        words = (attributes.WORDS, CHANGES, NUMBERS)
        ids = (jnp.array(tokenizer.convert_tokens_to_ids(list(some))) for some in words)
        return cls(jnp.array(make_encoder(tokenizer).prefix), *ids)


class Told(NamedTuple):
    """What a step tells: the loss on answers, shares of changes seen and frames matched, predictions `[B * n, T]`."""

    loss: jax.Array
    seen: jax.Array
    matched: jax.Array
    predicted: jax.Array


def tiny_config(vocab_size: int) -> LlamaConfig:
    """The shipped LLM's size: about 1.1 M parameters."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=352,
        num_layers=5,
        num_heads=4,
        num_kv_heads=4,
        head_dim=32,
        rope_theta=1e4,
        tie_word_embeddings=False,
        max_position_embeddings=2048,
    )


def initialise(model: Llama) -> None:
    """A start for small widths, instead of N(0, 0.02), which is made for widths of thousands.

    Kernels get variance 1 / fan-in (those that write to the residual stream less, by depth), and embeddings are
    loud enough to be heard beside them: matching a question to frames is then learned in two thirds of the steps.
    """
    for path, param in flat_params(model).items():
        if path.endswith("embedding"):
            param.set_value(param[...] * 25)
        elif path.startswith("layers/") and path.endswith("kernel"):
            scale = param.shape[-2] ** -0.5 / 0.02
            residual = "o_proj" in path or "down_proj" in path
            param.set_value(param[...] * (scale / (2 * model.config.num_layers) ** 0.5 if residual else scale))


def frame_tokens(embedding: jax.Array, word_ids: jax.Array, weights: jax.Array) -> jax.Array:
    """Tokens `[..., H]` of frames: the mixture of word embeddings that describes each."""
    return (weights * attributes.LOUDNESS) @ embedding[word_ids]


def loss_fn(
    params: Any, graphdef: nnx.GraphDef, fixed: Fixed, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, Told]:
    """Loss, and what else is known of the step, teacher-forced.

    The loss is the mean cross-entropy over answer tokens, plus those of `lookup_losses`: after CHANGE_LAYER blocks a
    frame must look like the word for what changes in it ("westward"); after MATCH_LAYER blocks it must look like its
    number, and a question like the frames that show what it asks for. Without the first changes were never found;
    without the others lookups over 8 frames scored 0.7 after 5,000 steps of 3,072 tokens, with them 0.65 after 3,700 of
    1,024.

    Args:
      params, graphdef: of a `Llama`.
      batch: as `lookup_batches.make_batch` makes it; ARRAYS of it. Without questions the losses of frames are all.
    """
    model = nnx.merge(graphdef, params)
    embedding = model.embed_tokens.embedding[...]
    video = frame_tokens(embedding, fixed.word_ids, batch["weights"])
    said = attributes.LOUDNESS.max() * embedding[batch["said"]]
    video += jnp.where(batch["said"][..., None] >= 0, said, 0.0)
    start = jnp.broadcast_to(model.embed(fixed.prefix)[None], (len(video), len(fixed.prefix), video.shape[-1]))
    _, cache, states = model.prefill(jnp.concatenate([start, video], axis=1), states=True)
    frames = states[:, :, len(fixed.prefix) :]
    change_loss, seen = word_loss(frames[CHANGE_LAYER], embedding[fixed.change_ids], batch["changes"])
    numbers = jnp.broadcast_to(jnp.arange(frames.shape[2]), frames.shape[1:3])
    number_loss, _ = word_loss(frames[MATCH_LAYER], embedding[fixed.number_ids], numbers)
    loss = change_loss + NUMBER_WEIGHT * number_loss
    if "tokens" not in batch:
        return loss, Told(jnp.zeros(()), seen, jnp.zeros(()), jnp.zeros((0, 0), jnp.int32))
    matching, told = _answers(model, cache, frames[MATCH_LAYER], seen, batch)
    return loss + told.loss + MATCH_WEIGHT * matching, told


def _answers(
    model: Llama, cache: KVCache, frames: jax.Array, seen: jax.Array, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, Told]:
    """The matching loss of all questions, and what is told of them; `frames` [B, F, H] after MATCH_LAYER blocks."""
    rows, length = batch["tokens"].shape
    positions = jnp.broadcast_to(cache.length + jnp.arange(length), (rows, length))
    causal = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (rows, length, length))
    suffix = KVCache.zeros(model.config, rows, length, frames.dtype)
    texts, _, asked = model.extend(model.embed(batch["tokens"]), positions, cache, suffix, 0, causal, states=True)
    logits = model.logits(texts[:, :-1])  # the first token is always the question's: no loss on it
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"][:, 1:])
    loss = (losses * batch["loss_weights"][:, 1:]).sum() / batch["loss_weights"].sum()
    looking = asked[MATCH_LAYER, jnp.arange(rows)[:, None], batch["looking"]]
    matching, matched = match_loss(frames, looking, batch["shown"])
    return matching, Told(loss, seen, matched, jnp.pad(logits.argmax(-1), ((0, 0), (1, 0))))


@partial(jax.jit, static_argnames=("graphdef", "tx"), donate_argnums=0)
def train_step(
    state: tuple[Any, Any],
    batch: Mapping[str, jax.Array],
    fixed: Fixed,
    rate: jax.Array,
    *,
    graphdef: nnx.GraphDef,
    tx: optax.GradientTransformation,
) -> tuple[tuple[Any, Any], Told]:
    """One update of (parameters, optimizer state); `rate` is the learning rate."""
    params, opt_state = state
    (_, told), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, graphdef, fixed, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    updates = jax.tree.map(lambda update: rate * update, updates)
    return (optax.apply_updates(params, updates), opt_state), told
