"""Confidence of an answer: the inverse of the mean entropy of its tokens (ReVisionLLM, REFERENCE section 4).

Letters: ... any leading axes, V vocabulary.

Which tokens count is a choice. Here: every generated token up to and including `</s>`, each with the entropy of
the model's own distribution, before the grammar masks it; steps after `</s>` do not count. (The released program
counts them too when it answers in batches, so that a pair's confidence depends on its neighbours.)
"""

import jax
import jax.numpy as jnp

# An entropy below this is noise of float32; it bounds the confidence at 1e6.
EPSILON = 1e-6


def token_entropy(logits: jax.Array) -> jax.Array:
    """Entropy in nats over the whole vocabulary: `[..., V]` raw float32 logits -> `[...]` float32."""
    log_probability = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(jnp.exp(log_probability) * log_probability, axis=-1)


def inverse_mean_entropy(entropy_sum: jax.Array, length: jax.Array) -> jax.Array:
    """`1 / max(mean_k H_k, EPSILON)`: larger is surer.

    Args:
      entropy_sum: `[...]` float32, sum of the entropies of an answer's tokens, in nats.
      length: `[...]` int32, how many tokens that is; an answer of no tokens has confidence 0.
    """
    mean = entropy_sum / jnp.maximum(length, 1)
    return jnp.where(length > 0, 1.0 / jnp.maximum(mean, EPSILON), 0.0)
