"""Teaches the tiny CLIP's text tower the words that no caption has.

Captions describe one frame, in 43 of the tokenizer's 546 words. The training on pictures leaves the other words, those
for actions among them, short random vectors. The states of a text's tokens are then nearly the same for all events, and
the sparse adapter, which reads them, learns late. So the text tower reads random words afterwards. One linear layer
(thrown away at the end) must read from each token's state its own word and the words before it.
The embeddings of captions, which are compared to pictures, stay as they are. Sentences about events are never read.
"""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from transformers import PreTrainedTokenizerBase

from revision_jax.models.clip import CLIP
from revision_jax.models.encoder import unit
from revision_jax.pretrain.shapes_clip import sample_images, tokenize

log = logging.getLogger(__name__)
KEEP = 10.0  # weight of the loss by which captions keep their embeddings; the words' loss has 1
WORDS = 20  # of a sentence, at most


def random_sentences(tokenizer: PreTrainedTokenizerBase, count: int, rng: np.random.Generator) -> np.ndarray:
    """Token ids `[count, WORDS + 2]` int32: start, 3 to WORDS random tokens, end, pad."""
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    words = np.setdiff1d(np.arange(len(tokenizer)), special)
    tokens = np.full((count, WORDS + 2), tokenizer.pad_token_id, np.int32)
    tokens[:, 0] = tokenizer.bos_token_id
    for row, length in zip(tokens, rng.integers(3, WORDS + 1, count), strict=True):
        row[1 : 1 + length] = rng.choice(words, length)
        row[1 + length] = tokenizer.eos_token_id
    return tokens


def words_loss(logits: jax.Array, tokens: jax.Array, pad: int) -> jax.Array:
    """Cross-entropy of `logits` [2, B, T, V] to every token's own word, and to the words up to it in equal shares."""
    own = jax.nn.one_hot(tokens, logits.shape[-1])
    so_far = jnp.cumsum(own, axis=1) / jnp.arange(1, tokens.shape[1] + 1)[:, None]
    loss = optax.softmax_cross_entropy(logits, jnp.stack([own, so_far])).sum(0)
    valid = tokens != pad
    return (loss * valid).sum() / valid.sum()


def _loss_fn(params: Any, graphdef: nnx.GraphDef, rest: Any, batch: Mapping[str, jax.Array], pad: int):
    clip = nnx.merge(graphdef, params["text"], rest)
    states = clip.encode_text(batch["sentences"])[0]
    words = words_loss(jnp.einsum("btw,kwv->kbtv", states, params["heads"]), batch["sentences"], pad)
    moved = 1 - (unit(clip.encode_text(batch["captions"])[1]) * batch["embeddings"]).sum(-1).mean()
    return words + KEEP * moved, (words, moved)


@partial(jax.jit, static_argnames=("graphdef", "tx", "pad"), donate_argnums=(0, 1))
def _train_step(params, opt_state, rest, batch, *, graphdef, tx, pad):
    (_, parts), grads = jax.value_and_grad(_loss_fn, has_aux=True)(params, graphdef, rest, batch, pad)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, parts


def learn_words(
    clip: CLIP, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0, steps: int, batch_size: int = 64
) -> CLIP:
    """Returns `clip`, its text tower trained on `batch_size` random sentences and as many captions a step."""
    graphdef, text, rest = nnx.split(clip, lambda path, _: path[0] in ("text", "text_projection"), ...)
    shape = (2, clip.config.token_width, len(tokenizer))
    params = {"text": text, "heads": jax.random.normal(jax.random.key(seed), shape) * shape[1] ** -0.5}
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-3, steps // 10, steps, 1e-5)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98))
    opt_state = tx.init(params)
    before = nnx.merge(graphdef, jax.tree.map(jnp.copy, text), rest)  # a copy: the step takes over what it is given
    embed = nnx.jit(lambda clip, tokens: unit(clip.encode_text(tokens)[1]))
    for step in range(steps):
        rng = np.random.default_rng([seed, step, 1])
        captions = tokenize(tokenizer, sample_images(batch_size, rng)[-1])
        sentences = random_sentences(tokenizer, batch_size, rng)
        batch = {"sentences": sentences, "captions": captions, "embeddings": embed(before, captions)}
        static = {"graphdef": graphdef, "tx": tx, "pad": tokenizer.pad_token_id}
        params, opt_state, (words, moved) = _train_step(params, opt_state, rest, batch, **static)
        if step % 100 == 0 or step == steps - 1:
            log.info("words, step %d: loss %.3f, captions moved by %.4f", step, float(words), float(moved))
    return nnx.merge(graphdef, params["text"], rest)
