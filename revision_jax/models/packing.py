"""Several texts behind one video: their positions, who sees whom, and attention that skips what no one sees.

Letters: B batch, T queries, N query heads, K key heads, D head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.models.attention import attention, backend_here, prefix_attention


class Packing(NamedTuple):
    """`texts` texts of `length` tokens, one after the other, behind `start` tokens that they share.

    A token sees the shared ones and its own text, up to itself.
    """

    start: int
    texts: int
    length: int

    @property
    def positions(self) -> np.ndarray:
        """[start + texts * length] int: those of each text begin at `start`."""
        return np.concatenate([np.arange(self.start), np.tile(self.start + np.arange(self.length), self.texts)])

    @property
    def mask(self) -> jax.Array:
        """[T, T] bool, True where a query sees a key."""
        owner = jnp.concatenate(
            [jnp.zeros(self.start, jnp.int32), jnp.repeat(jnp.arange(1, self.texts + 1), self.length)]
        )
        own = (owner[:, None] == owner) | (owner == 0)
        return own & jnp.tril(jnp.ones_like(own))


def packed_attention(q: jax.Array, k: jax.Array, v: jax.Array, packing: Packing, *, backend: str) -> jax.Array:
    """Attention of q [B, T, N, D] over k, v [B, T, K, D], T = start + texts * length -> [B, T, N, D].

    cuDNN takes the mask. Elsewhere a mask would cost all T x T pairs: the shared tokens are a causal sequence of their
    own, and every text is a row with a suffix of its own behind them.
    """
    if backend != "splash" and backend_here(backend, q, k, causal=False, masked=True) == "cudnn":
        return attention(q, k, v, mask=packing.mask, backend=backend)
    start, texts, length = packing
    shared = lambda x: x[:, :start]
    own = lambda x: x[:, start:].reshape(-1, length, *x.shape[2:])  # [B * texts, length, ...]
    context = attention(*map(shared, (q, k, v)), causal=True, backend=backend)
    seen = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (len(q) * texts, length, length))
    rows = prefix_attention(own(q), (shared(k), shared(v)), (own(k), own(v)), seen)
    return jnp.concatenate([context, rows.reshape(len(q), texts * length, *q.shape[2:])], axis=1)
