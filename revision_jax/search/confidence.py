"""Confidence of an answer, from the model's own distributions of its tokens.

Three kinds: the inverse of the mean entropy (ReVisionLLM, REFERENCE section 4), the inverse of the largest entropy
(one unsure token makes an unsure answer), and the likelihood of the whole answer.

Which tokens count is a choice. Here: every generated token up to and including `</s>`, each with the model's own
distribution, before the grammar masks it; steps after `</s>` do not count. (The released program counts them too when
it answers in batches, so that a pair's confidence depends on its neighbours.)

Letters: ... any leading axes, A answer tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np

# An entropy below this is noise of float32; it bounds the confidence at 1e6.
EPSILON = 1e-6
COSINE = "cosine"  # the similarity that CLIP retrieval is sure of
KINDS = ("inverse_mean_entropy", "inverse_max_entropy", "sequence_likelihood")


def check_kind(kind: str) -> None:
    """Raises ValueError for a kind of confidence that does not exist."""
    if kind not in KINDS:
        raise ValueError(f"search.confidence is {kind!r}; expected one of {KINDS}.")


def token_entropy(logits: jax.Array) -> jax.Array:
    """Entropy in nats over the whole vocabulary: `[..., V]` raw float32 logits -> `[...]` float32."""
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(jnp.exp(log_probability) * log_probability, axis=-1)


def confidence(kind: str, entropies: jax.Array, log_likelihood: jax.Array, length: jax.Array) -> jax.Array:
    """How sure answers are, the larger the surer: `[...]` float32; an answer of no tokens has 0.

    Args:
      kind: one of `KINDS`.
      entropies: `[..., A]` float32, of an answer's tokens, in nats; 0 after its end.
      log_likelihood: `[...]` float32, of the whole answer.
      length: `[...]` int32, tokens of the answer.
    """
    if kind == "sequence_likelihood":
        return jnp.where(length > 0, jnp.exp(log_likelihood), 0.0)
    if kind == "inverse_max_entropy":
        entropy = jnp.max(entropies, axis=-1)
    else:
        entropy = jnp.sum(entropies, axis=-1) / jnp.maximum(length, 1)
    return jnp.where(length > 0, 1.0 / jnp.maximum(entropy, EPSILON), 0.0)


def uncertainty(kind: str, confidence: np.ndarray) -> np.ndarray:
    """The nats behind confidences `[...]` above 0: an entropy, or minus the log-likelihood; at least 0.

    `kind` is one of `KINDS`, or `COSINE`, whose distance 1 - cosine stands for them.
    """
    confidence = np.asarray(confidence, np.float64)
    if kind == COSINE:
        return np.maximum(1.0 - confidence, 0.0)
    nats = -np.log(confidence) if kind == "sequence_likelihood" else 1.0 / confidence
    return np.maximum(nats, 0.0)
