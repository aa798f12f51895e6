"""What the states of the tiny LLM's middle blocks must show, beside the answers: lookups are then learned sooner.

An answer tells of frames only through all that lies between. So each step of a lookup has a loss of its own: a frame
shows what changes in it, it says its number, and a question is like the frames that show what it asks for. What is left
to the last blocks is to look for frames like oneself and to say their numbers.

Letters: B videos, F frames, n questions a video, K tokens of each, C words, H width.
"""

import jax
import jax.numpy as jnp
import optax

SHARPNESS = 20.0  # a logit for a unit of cosine


def word_loss(frames: jax.Array, words: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and accuracy of the words that frames are most like.

    Args:
      frames: [B, F, H] states; words: [C, H] embeddings.
      targets: [B, F] int32, a word each; -1 for frames that need not be like any.
    """
    frames = frames * jax.lax.rsqrt(jnp.square(frames).mean(-1, keepdims=True) + 1e-6)
    logits = frames @ words.T / frames.shape[-1] ** 0.5
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(targets, 0))
    return _mean(losses, targets >= 0), _mean(logits.argmax(-1) == targets, targets >= 0)


def match_loss(frames: jax.Array, texts: jax.Array, shown: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Binary cross-entropy and accuracy of which frames a text token is like: those that show what is asked for.

    They are compared in the first half of their states alone, by the cosine: the rest is free, for a frame's number.

    Args:
      frames: [B, F, H] states; texts: [B * n, K, H] states.
      shown: [B * n, K, F] int32, 1 for frames that a token must be like, 0 for others, -1 for those left out.
    """
    unit = lambda x: x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-6)
    frames, texts = (unit(x[..., : x.shape[-1] // 2]) for x in (frames, texts))
    texts = texts.reshape(len(frames), -1, texts.shape[-1])
    cosine = jnp.einsum("bth,bfh->btf", texts, frames).reshape(shown.shape)
    losses = optax.sigmoid_binary_cross_entropy(SHARPNESS * (cosine - 0.5), shown)
    return _mean(losses, shown >= 0), _mean((cosine > 0.5) == (shown > 0), shown >= 0)


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    return jnp.where(counted, values, 0).sum() / jnp.maximum(counted.sum(), 1)
