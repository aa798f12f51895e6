"""The whole vision-language model: adapter tokens of a video between a prompt's prefix and its text.

Letters: B batch, W windows, n windows of a group, P prefix tokens, F frames a window, Q query tokens, T text tokens,
D visual width, H LLM width, V vocabulary. One static layout, right-padded, for each of two levels:
dense [prefix P | frames F | question and answer T], sparse [prefix P | windows n | question and answer T].
"""

import jax
import jax.numpy as jnp
from flax import nnx

from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.layers import LayerNorm
from revision_jax.models.llama import KVCache, Llama
from revision_jax.models.packing import Packing
from revision_jax.models.visual import Visual


class Grounder(nnx.Module):
    """`llm`, `adapter` (dense), `sparse` and `norm` joined. The paths of parameters start with these names.

    Args:
      adapter, sparse: at least one of them. Without the sparse one there are no groups; without the dense one, frames
        have their tokens of the sparse one too (`visual.Visual`).
      norm: over the tokens of frames and windows; None where there is none.
      window_chunk: windows whose sparse tokens are computed at a time, which bounds memory.
    """

    def __init__(
        self,
        llm: Llama,
        adapter: DenseAdapter | None = None,
        sparse: SparseAdapter | None = None,
        *,
        norm: LayerNorm | None = None,
        window_chunk: int = 64,
    ):
        if adapter is None and sparse is None:
            raise ValueError("a grounder without an adapter sees nothing; give the dense one, the sparse one or both")
        for width in Visual(adapter, sparse).hidden_sizes:
            if width != llm.config.hidden_size:
                raise ValueError(f"the adapter gives width {width}, the LLM has {llm.config.hidden_size}")
        if adapter is not None and sparse is not None and adapter.kernel.shape[0] != sparse.visual_width:
            widths = [adapter.kernel.shape[0], sparse.visual_width]
            raise ValueError(f"the adapters take features of different widths {widths}; expected one encoder's")
        self.llm = llm
        self.adapter = adapter
        self.sparse = sparse
        self.norm = norm
        self.window_chunk = window_chunk

    @property
    def visual(self) -> Visual:
        """What makes the tokens of frames and windows."""
        return Visual(self.adapter, self.sparse, self.norm)

    @property
    def visual_width(self) -> int:
        """`D`, the width of the features."""
        return self.visual.width

    def __call__(
        self,
        prefix: jax.Array,
        video: jax.Array,
        tokens: jax.Array,
        query: jax.Array | None = None,
        query_mask: jax.Array | None = None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher forcing: the logits that predict each text token from all before it.

        Args:
          prefix: [P] int32, the same for every row.
          video: [B, F, D] features of a window; or [B, n, F, D], a group of windows, one token each.
          tokens: [B, T] int32, right-padded; or [B, G, T], G texts about one video. These share the video and
            do not see each other: each gets the logits it would get alone.
          query: [B, Q, D] CLIP's token features of the sentence asked about; query_mask: [B, Q], true where valid.
            Needed by groups, and by windows where frames see the query.
          dropout_key: turns dropout (LoRA's, the sparse adapter's) on; None is deterministic.
        Returns:
          [B, T, V] or [B, G, T, V] float32; row i predicts tokens[..., i].
        """
        return self.logits(self.hidden(prefix, video, tokens, query, query_mask, dropout_key=dropout_key))

    def logits(self, hidden: jax.Array) -> jax.Array:
        """The LM head: [..., H] of `hidden` -> [..., V] float32. A caller can pick rows of `hidden` first."""
        return self.llm.logits(hidden)

    def hidden(
        self,
        prefix: jax.Array,
        video: jax.Array,
        tokens: jax.Array,
        query: jax.Array | None = None,
        query_mask: jax.Array | None = None,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """The hidden states [B, (G,) T, H] behind the logits of `__call__`, whose arguments it takes."""
        if query is not None:
            adapter_key, dropout_key = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        if query is None:
            context = self.embed_windows(prefix, video)  # [B, P + F, H]
        elif video.ndim == 3:
            frames = self.visual.frame_tokens(video, query, query_mask, dropout_key=adapter_key)
            context = self._behind(prefix, frames)  # [B, P + F, H]
        else:
            group = self.group_tokens(video, query, query_mask, dropout_key=adapter_key)
            context = self.embed_group(prefix, group)  # [B, P + n, H]
        return self._text_hidden(context, tokens, dropout_key)

    def text_logits(self, context: jax.Array, tokens: jax.Array) -> jax.Array:
        """Embeddings [B, S, H] of prefix and video, tokens [B, (G,) T] -> logits [B, (G,) T, V]; see `__call__`."""
        return self.logits(self._text_hidden(context, tokens, None))

    def _text_hidden(self, context: jax.Array, tokens: jax.Array, dropout_key: jax.Array | None) -> jax.Array:
        """[B, S, H], [B, (G,) T] -> [B, (G,) T, H]; row i predicts tokens[..., i]."""
        batch, start = context.shape[:2]
        texts = 1 if tokens.ndim == 2 else tokens.shape[1]
        # The last token is only ever predicted, never read.
        read = self.llm.embed(tokens[..., :-1]).reshape(batch, -1, context.shape[-1])
        packing = None if texts == 1 else Packing(start, texts, tokens.shape[-1] - 1)
        hidden = self.llm(jnp.concatenate([context, read], axis=1), packing=packing, dropout_key=dropout_key)
        # A text's first token is predicted by the video's last, which all texts share.
        first = jnp.broadcast_to(hidden[:, start - 1][:, None, None], (batch, texts, 1, hidden.shape[-1]))
        rest = hidden[:, start:].reshape(batch, texts, -1, hidden.shape[-1])
        return jnp.concatenate([first, rest], axis=2).reshape(*tokens.shape, -1)

    def embed_windows(
        self, prefix: jax.Array, video: jax.Array, query: jax.Array | None = None, query_mask: jax.Array | None = None
    ) -> jax.Array:
        """Prefix [P] and features [W, F, D] -> LLM embeddings [W, P + F, H]; query [W, Q, D] where frames see it."""
        return self._behind(prefix, self.visual.frame_tokens(video, query, query_mask))

    def embed_group(self, prefix: jax.Array, windows: jax.Array) -> jax.Array:
        """Prefix [P] and sparse tokens [B, n, H] of groups of windows -> LLM embeddings [B, P + n, H]."""
        return self._behind(prefix, windows)

    def _behind(self, prefix: jax.Array, video: jax.Array) -> jax.Array:
        head = self.llm.embed(prefix[None])
        head = jnp.broadcast_to(head, (video.shape[0], *head.shape[1:]))
        return jnp.concatenate([head, video.astype(head.dtype)], axis=1)

    def sparse_tokens(self, video: jax.Array, query: jax.Array, query_mask: jax.Array) -> jax.Array:
        """One vector a pair of window and query: [B, F, D], [B, Q, D], [B, Q] -> [B, H] float32.

        `window_chunk` pairs at a time, so that memory does not grow with B.
        """
        one = lambda pair: self.visual.window_tokens(*(x[None] for x in pair))[0]
        return jax.lax.map(one, (video, query, query_mask), batch_size=min(self.window_chunk, video.shape[0]))

    def group_tokens(
        self, video: jax.Array, query: jax.Array, query_mask: jax.Array, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """The sparse tokens of groups, each with its query: [B, n, F, D], [B, Q, D], [B, Q] -> [B, n, H] float32.

        Chunks go across groups, `window_chunk` windows in all, so that a batch stays divided over devices.
        """
        batch, windows = video.shape[:2]
        keys = None if dropout_key is None else jax.random.split(dropout_key, windows)
        encode = lambda window: self.visual.window_tokens(window[0], query, query_mask, dropout_key=window[1])
        chunk = min(max(self.window_chunk // batch, 1), windows)
        return jax.lax.map(encode, (video.swapaxes(0, 1), keys), batch_size=chunk).swapaxes(0, 1)

    def encode_windows(self, prefix: jax.Array, video: jax.Array) -> tuple[KVCache, jax.Array]:
        """Prefix [P], features [W, F, D] -> (cache of P + F slots a window, last hidden state [W, H]).

        Where the frames do not see the query, one cache serves every query on a window.
        """
        hidden, cache = self.llm.prefill(self.embed_windows(prefix, video))
        return cache, hidden[:, -1]
