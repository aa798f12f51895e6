"""Confidence of an answer, from the model's own distributions of its tokens.

Three kinds: the inverse of the mean entropy (ReVisionLLM, REFERENCE section 4), the inverse of the largest entropy
(one unsure token makes an unsure answer), and the likelihood of the whole answer.

Every generated token up to and including `</s>` counts, each with the model's own distribution, before the grammar
masks it; steps after `</s>` do not count. (The released program counts them too when it answers in batches, so that a
pair's confidence depends on the other pairs of its batch.)

Letters: ... any leading axes, A answer tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.search.rules import CONFIDENCES

# An entropy below this is noise of float32; it bounds the confidence at 1e6.
EPSILON = 1e-6
COSINE = "cosine"  # the similarity that CLIP retrieval is sure of
INVERSE_MEAN_ENTROPY = "inverse_mean_entropy"  # the paper's


def token_entropy(logits: jax.Array) -> jax.Array:
    """Entropy in nats over the whole vocabulary: `[..., V]` raw float32 logits -> `[...]` float32."""
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(jnp.exp(log_probability) * log_probability, axis=-1)


def confidence(kind: str, entropies: jax.Array, log_likelihood: jax.Array, length: jax.Array) -> jax.Array:
    """How sure answers are, the larger the surer: `[...]` float32; an answer of no tokens has 0.

    Args:
      kind: one of `search.rules.CONFIDENCES`.
      entropies: `[..., A]` float32, of an answer's tokens, in nats; 0 after its end.
      log_likelihood: `[...]` float32, of the whole answer.
      length: `[...]` int32, tokens of the answer.

    Raises:
      ValueError: there is no such kind.
    """
    if kind == "sequence_likelihood":
        sure = jnp.exp(log_likelihood)
    elif kind == "inverse_max_entropy":
        sure = 1.0 / jnp.maximum(jnp.max(entropies, axis=-1), EPSILON)
    elif kind == INVERSE_MEAN_ENTROPY:
        sure = 1.0 / jnp.maximum(jnp.sum(entropies, axis=-1) / jnp.maximum(length, 1), EPSILON)
    else:
        raise ValueError(f"search.confidence is {kind!r}; expected one of {', '.join(CONFIDENCES)}.")
    return jnp.where(length > 0, sure, 0.0)


def uncertainty(kind: str, confidence: np.ndarray) -> np.ndarray:
    """The nats behind confidences `[...]` above 0: an entropy, or minus the log-likelihood; at least 0.

    `kind` is one of `search.rules.CONFIDENCES`, or `COSINE`, whose distance 1 - cosine stands for them.
    """
    confidence = np.asarray(confidence, np.float64)
    if kind == COSINE:
        return np.maximum(1.0 - confidence, 0.0)
    nats = -np.log(confidence) if kind == "sequence_likelihood" else 1.0 / confidence
    return np.maximum(nats, 0.0)
