"""What a search cost, counted from what it did.

FLOPs are those that the arithmetic needs (2 a multiply-add), without those that a program wastes on padding: matrix
products of the language model, attention over what a token sees, the output head where an answer token is predicted,
and the adapters. CLIP is not counted: features are given.

Letters: P prefix tokens, F frames a window, h tokens of the shared head, Q queries, U upper windows, L layers.
"""

import dataclasses
import math

import numpy as np
from flax import nnx

from revision_jax.metrics.cost import Cost, LevelCost
from revision_jax.models.grounder import Grounder
from revision_jax.search.levels.upper import UpperLevel
from revision_jax.search.packing.inputs import VideoInputs
from revision_jax.search.packing.packer import Packed
from revision_jax.search.packing.windows import VideoWindows
from revision_jax.search.program import Found


class Flops:
    """FLOPs of the parts of a grounder."""

    def __init__(self, grounder: Grounder):
        llm, config, dense = grounder.llm, grounder.llm.config, grounder.adapter
        self.sparse, self.frames_see_query = grounder.sparse, grounder.visual.frames_see_query
        # Stacked kernels [L, in, out], LoRA's too: every one is one product a token.
        arrays = nnx.to_flat_state(nnx.state(llm.layers))
        self.layers = 2 * sum(math.prod(x.shape) for _, x in arrays if len(x.shape) == 3)
        self.head = 2 * config.hidden_size * config.vocab_size
        self.attended = 4 * config.num_layers * config.num_heads * config.head_dim
        self.projected = 0 if dense is None else 2 * math.prod(dense.kernel.shape)

    def tokens(self, count: float, seen: float) -> float:
        """Of `count` tokens through the layers, each of which sees `seen` others on average."""
        return count * (self.layers + self.attended * seen)

    def prefill(self, rows: float, length: int) -> float:
        """Of so many rows of a causal prefix."""
        return rows * self.tokens(length, (length + 1) / 2)

    def frame_tokens(self, frames: int, query_tokens: int) -> float:
        """Of the tokens of a window's frames, for one query where they see it."""
        if not self.frames_see_query:
            return frames * self.projected
        return self._encoded(frames, query_tokens, frames + 1)

    def sparse_vector(self, frames: int, query_tokens: int) -> float:
        """Of one (query, window): the last layer of the encoder for the learned token only."""
        return 0.0 if self.sparse is None else self._encoded(frames, query_tokens, 1)

    def _encoded(self, frames: int, query_tokens: int, wanted: int) -> float:
        """Of the sparse adapter's encoder, for so many of its outputs, and its linear layer."""
        mlp = self.sparse.encoder.linear1.kernel.shape
        layers, width, inner = mlp
        both = frames + 1
        cross = 4 * frames * width**2 + 4 * query_tokens * width**2 + 4 * frames * query_tokens * width
        cross += 4 * frames * width * inner
        whole = 8 * both * width**2 + 4 * both**2 * width + 4 * both * width * inner
        last = 4 * both * width**2 + wanted * (4 * width**2 + 4 * both * width + 4 * width * inner)
        if self.sparse.reads_projected:
            text = 2 * math.prod(self.sparse.text_mm_projector.kernel.shape)
            projector = frames * self.projected + query_tokens * text
        else:
            projector = max(wanted - 1, 1) * 2 * math.prod(self.sparse.mm_projector.kernel.shape)
        return self.sparse.t2v_encoder.num_layers * cross + (layers - 1) * whole + last + projector


def count_cost(
    flops: tuple[Flops, Flops | None], packed: Packed, windows: VideoWindows, found: Found, prefix: int
) -> Cost:
    """The cost of one search of a video, but for seconds and stored frames.

    Args:
      flops: of the dense and the upper grounder.
      windows: of the video.
      prefix: P.
    """
    (dense, upper), (plan, video) = flops, packed
    count, head, num_frames = int(video.questions.count), len(video.questions.head), video.table.frames.shape[-1]
    lengths = video.questions.lengths[:count].astype(np.int64)
    chosen = found.chosen[:count]
    pairs, decoded = chosen.sum(axis=1), found.decoded[:count]
    turns = [chosen] if found.verified is None else [chosen & ~found.verified[:count], found.verified[:count]]
    encoded = sum(int(turn.any(axis=0).sum()) for turn in turns)
    context = prefix + num_frames + head
    if video.seen is not None:
        encoded = int(pairs.sum())  # nothing of a window is shared by its queries
    needed = encoded * dense.frame_tokens(num_frames, 0 if video.seen is None else video.seen.query.shape[1])
    needed += dense.prefill(encoded, context)
    needed += float(np.sum(pairs * dense.tokens(lengths, context + (lengths + 1) / 2)))
    # The first answer token is predicted by the question's last; the closing one is not fed back.
    needed += float(np.sum(dense.tokens(np.maximum(decoded - pairs, 0), context + lengths)))
    needed += float(decoded.sum()) * dense.head
    levels = []
    if plan.levels:
        vectors = count * int(video.counts[0])
        needed += vectors * upper.sparse_vector(num_frames, video.upper.query.shape[1])
        for place, level in enumerate(plan.levels):
            cost, used = _level(upper, level, video, found, place, prefix)
            levels.append(dataclasses.replace(cost, windows=vectors))
            needed += used
    return Cost(
        videos=1, queries=count, windows=encoded, frames=encoded * num_frames,
        tokens_prefilled=encoded * context + int((lengths * pairs).sum()), tokens_decoded=int(decoded.sum()),
        pairs=int(pairs.sum()), all_pairs=count * windows.all_dense, levels=tuple(levels),
        video_s=float(video.duration_s), flops=needed,
    )  # fmt: skip


def _level(
    upper: Flops, level: UpperLevel, video: VideoInputs, found: Found, place: int, prefix: int
) -> tuple[LevelCost, float]:
    """Counters and FLOPs of the upper level at a place, but for its sparse vectors."""
    count = int(video.questions.count)
    asked = video.upper.questions.lengths[:count].astype(np.int64)
    shown, nodes = int(video.counts[place]), len(level.tree.tokens)
    groups, context = int(level.groups(shown)), prefix + level.size + len(video.upper.questions.head)
    decoded = found.levels.decoded[place][:count]
    needed = upper.prefill(count * groups, context)
    needed += float(np.sum(groups * upper.tokens(asked + nodes, context + (asked + 1) / 2)))
    needed += count * groups * (1 + nodes) * upper.head + float(np.sum(decoded)) * upper.head
    needed += float(np.sum(upper.tokens(np.maximum(decoded - groups, 0), context + asked)))
    cost = LevelCost(
        shown=count * shown, groups=count * groups,
        tokens_prefilled=groups * int((asked + context + nodes).sum()), tokens_decoded=int(decoded.sum()),
    )  # fmt: skip
    return cost, needed
