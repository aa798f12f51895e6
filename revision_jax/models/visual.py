"""What the LLM sees of a video: tokens of frames and of windows, in each layout of the adapters.

Letters: B batch, n windows of a group, F frames a window, Q query tokens, D visual width, H LLM width.

| layout | token of a window | tokens of a frame |
|---|---|---|
| visual_width | the sparse adapter, at width D | the dense adapter |
| llm_width | the sparse adapter, at width H, behind the dense one | the dense adapter |
| clip_adapter | the sparse adapter, at width D | the sparse adapter, its outputs at the frames |

A LayerNorm over H (`norm`), where there is one, is the last thing before the LLM, for both kinds of tokens.
"""

import dataclasses

import jax

from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.layers import LayerNorm


@dataclasses.dataclass(frozen=True)
class Visual:
    """The adapters of a grounder.

    Attributes:
      adapter: gives a frame's token; None: the sparse adapter does, and these tokens have seen the query.
      sparse: gives a window's token; None: there are none.
      norm: over the tokens, [H].
    """

    adapter: DenseAdapter | None = None
    sparse: SparseAdapter | None = None
    norm: LayerNorm | None = None

    @property
    def frames_see_query(self) -> bool:
        """Whether the tokens of frames depend on the query."""
        return self.adapter is None

    @property
    def width(self) -> int:
        """`D`, the width of the features."""
        return self.sparse.visual_width if self.adapter is None else self.adapter.kernel.shape[0]

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """`H` of every adapter."""
        dense = () if self.adapter is None else (self.adapter.kernel.shape[1],)
        return dense if self.sparse is None else (*dense, self.sparse.hidden_size)

    def frame_tokens(
        self, video: jax.Array, query: jax.Array | None = None, query_mask: jax.Array | None = None,
        *, dropout_key: jax.Array | None = None,
    ) -> jax.Array:  # fmt: skip
        """Features [B, F, D] -> tokens [B, F, H] float32; a query [B, Q, D] and its mask where frames see it."""
        if self.adapter is not None:
            return self._normed(self.adapter(video))
        if query is None:
            raise ValueError("frames of this grounder see the query (layout clip_adapter); give query and query_mask")
        return self._normed(self.sparse.frames(video, query, query_mask, dropout_key=dropout_key))

    def window_tokens(
        self, video: jax.Array, query: jax.Array, query_mask: jax.Array, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """Features [B, F, D], a query [B, Q, D] and its mask [B, Q] -> one token a window, [B, H] float32."""
        if self.sparse.reads_projected:
            video = self.adapter(video)
        return self._normed(self.sparse(video, query, query_mask, dropout_key=dropout_key))

    def _normed(self, tokens: jax.Array) -> jax.Array:
        return tokens if self.norm is None else self.norm(tokens)
