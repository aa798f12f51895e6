"""The whole vision-language model: adapter tokens of a window between a prompt's prefix and its text.

Letters: B batch, W windows, P prefix tokens, F frames a window, T text tokens, D visual width, H LLM width,
V vocabulary. One static layout: [prefix P | video F | question and answer T, right-padded].
"""

import jax
import jax.numpy as jnp
from flax import nnx

from revision_jax.models.adapter import DenseAdapter
from revision_jax.models.llama import KVCache, Llama


class Grounder(nnx.Module):
    """`llm` and `adapter` joined. The paths of parameters start with these two names."""

    def __init__(self, llm: Llama, adapter: DenseAdapter):
        if adapter.kernel.shape[1] != llm.config.hidden_size:
            raise ValueError(f"the adapter gives width {adapter.kernel.shape[1]}, the LLM has {llm.config.hidden_size}")
        self.llm = llm
        self.adapter = adapter

    def __call__(
        self,
        prefix: jax.Array,
        video: jax.Array,
        tokens: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher forcing: the logits that predict each text token from all before it.

        Args:
          prefix: [P] int32, the same for every row.
          video: [B, F, D] features.
          tokens: [B, T] int32, right-padded; or [B, G, T], G texts about one window. These share the video and
            do not see each other: each gets the logits it would get alone.
          dropout_key: turns LoRA dropout on; None is deterministic.
        Returns:
          [B, T, V] or [B, G, T, V] float32; row i predicts tokens[..., i].
        """
        context = self.embed_windows(prefix, video)  # [B, P + F, H]
        batch, start = context.shape[:2]
        texts = 1 if tokens.ndim == 2 else tokens.shape[1]
        # The last token is only ever predicted, never read.
        read = self.llm.embed(tokens[..., :-1]).reshape(batch, -1, context.shape[-1])
        layout = {} if texts == 1 else packed_layout(start, texts, tokens.shape[-1] - 1)
        hidden = self.llm(jnp.concatenate([context, read], axis=1), dropout_key=dropout_key, **layout)
        # A text's first token is predicted by the last frame, which all texts share.
        first = jnp.broadcast_to(hidden[:, start - 1][:, None, None], (batch, texts, 1, hidden.shape[-1]))
        rest = hidden[:, start:].reshape(batch, texts, -1, hidden.shape[-1])
        logits = self.llm.logits(jnp.concatenate([first, rest], axis=2))
        return logits.reshape(*tokens.shape, -1)

    def embed_windows(self, prefix: jax.Array, video: jax.Array) -> jax.Array:
        """Prefix [P] and features [W, F, D] -> LLM embeddings [W, P + F, H]."""
        head = self.llm.embed(prefix[None])
        head = jnp.broadcast_to(head, (video.shape[0], *head.shape[1:]))
        return jnp.concatenate([head, self.adapter(video).astype(head.dtype)], axis=1)

    def encode_windows(self, prefix: jax.Array, video: jax.Array) -> tuple[KVCache, jax.Array]:
        """Prefix [P], features [W, F, D] -> (cache of P + F slots a window, last hidden state [W, H]).

        The features do not see the query: one cache serves every query on a window.
        """
        hidden, cache = self.llm.prefill(self.embed_windows(prefix, video))
        return cache, hidden[:, -1]


def packed_layout(start: int, texts: int, length: int) -> dict[str, jax.Array]:
    """Positions and mask of `texts` texts of `length` tokens behind `start` shared ones.

    Returns:
      positions [start + texts * length] int32: those of each text begin at `start`; mask [T, T] bool: a token sees
      the shared ones and its own text, up to itself.
    """
    owner = jnp.concatenate([jnp.zeros(start, jnp.int32), jnp.repeat(jnp.arange(1, texts + 1), length)])
    positions = jnp.concatenate([jnp.arange(start), jnp.tile(start + jnp.arange(length), texts)])
    own = (owner[:, None] == owner) | (owner == 0)
    return {"positions": positions, "mask": own & jnp.tril(jnp.ones_like(own))}
