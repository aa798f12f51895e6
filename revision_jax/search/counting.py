"""What a search cost, counted from what it did.

FLOPs are those that the arithmetic needs (2 a multiply-add), whatever a program wastes on padding: matrix products of
the language model, attention over what a token sees, the output head where an answer token is predicted, and the
adapters. CLIP is not in it: features are given.

Letters: P prefix tokens, F frames a window, h tokens of the shared head, Q queries, U upper windows, L layers.
"""

import math
from collections.abc import Sequence

import numpy as np
from flax import nnx

from revision_jax.metrics.cost import Cost, LevelCost
from revision_jax.search.layout import VideoWindows
from revision_jax.search.program import Found, Plan, VideoInputs


class Flops:
    """FLOPs of the parts of a grounder; 0 for parts that it does not have (stand-ins in tests).

    Args:
      grounder: `models.Grounder`, or None.
    """

    def __init__(self, grounder):
        llm, self.sparse = getattr(grounder, "llm", None), getattr(grounder, "sparse", None)
        config, dense = getattr(llm, "config", None), getattr(grounder, "adapter", None)
        self.layers = self.head = self.attended = 0
        if config is not None:
            # Stacked kernels [L, in, out], LoRA's too: every one is one product a token.
            arrays = nnx.to_flat_state(nnx.state(llm.layers))
            self.layers = 2 * sum(math.prod(x.shape) for _, x in arrays if len(x.shape) == 3)
            self.head = 2 * config.hidden_size * config.vocab_size
            self.attended = 4 * config.num_layers * config.num_heads * config.head_dim
        self.dense_frame = 2 * math.prod(dense.kernel.shape) if dense is not None else 0

    def tokens(self, count: float, seen: float) -> float:
        """Of `count` tokens through the layers, each of which sees `seen` others on average."""
        return count * (self.layers + self.attended * seen)

    def prefill(self, rows: float, length: int) -> float:
        """Of so many rows of a causal prefix."""
        return rows * self.tokens(length, (length + 1) / 2)

    def sparse_vector(self, frames: int, query_tokens: int) -> float:
        """Of one (query, window): the arithmetic of REFERENCE section 6, the last layer for the learned token only."""
        if self.sparse is None:
            return 0.0
        mlp = self.sparse.encoder.linear1.kernel.shape
        layers, width, inner = mlp
        both = frames + 1
        cross = 4 * frames * width**2 + 4 * query_tokens * width**2 + 4 * frames * query_tokens * width
        cross += 4 * frames * width * inner
        whole = 8 * both * width**2 + 4 * both**2 * width + 4 * both * width * inner
        last = 4 * both * width**2 + 4 * width**2 + 4 * both * width + 4 * width * inner
        projector = 2 * math.prod(self.sparse.mm_projector.kernel.shape)
        return self.sparse.t2v_encoder.num_layers * cross + (layers - 1) * whole + last + projector


def count_cost(
    flops: Sequence[Flops], found: Found, windows: VideoWindows, video: VideoInputs, plan: Plan, *, prefix: int,
    num_frames: int, stored_frames: int, seconds: float,
) -> Cost:  # fmt: skip
    """The cost of one search of a video.

    Args:
      flops: of the dense and the upper grounder.
      prefix: P; num_frames: F.
      stored_frames: features of the video, all of them read.
      seconds: wall time.
    """
    dense, upper = flops
    count, head = int(video.questions.count), len(video.questions.head)
    lengths = video.questions.lengths[:count].astype(np.int64)
    chosen = found.chosen[:count]
    encoded, pairs, decoded = int(chosen.any(axis=0).sum()), chosen.sum(axis=1), found.decoded[:count]
    context = prefix + num_frames + head
    needed = encoded * num_frames * dense.dense_frame + dense.prefill(encoded, context)
    needed += float(np.sum(pairs * dense.tokens(lengths, context + (lengths + 1) / 2)))
    # The first answer token is predicted by the question's last; the closing one is not fed back.
    needed += float(np.sum(dense.tokens(np.maximum(decoded - pairs, 0), context + lengths)))
    needed += float(decoded.sum()) * dense.head
    levels = []
    if plan.levels:
        vectors = count * len(windows.upper)
        needed += vectors * upper.sparse_vector(num_frames, video.upper.query.shape[1])
        for i, level in enumerate(plan.levels):
            cost, used = _level(upper, level, found, video, i, count, prefix, vectors)
            levels.append(cost)
            needed += used
    return Cost(
        videos=1, queries=count, windows=encoded, frames=encoded * num_frames,
        tokens_prefilled=encoded * context + int((lengths * pairs).sum()), tokens_decoded=int(decoded.sum()),
        seconds=seconds, pairs=int(pairs.sum()), all_pairs=count * windows.all_dense, levels=tuple(levels),
        video_s=float(video.duration_s), stored_frames=stored_frames, flops=needed,
    )  # fmt: skip


def _level(upper: Flops, level, found: Found, video: VideoInputs, place: int, count: int, prefix: int, vectors: int):
    """Counters and FLOPs of one upper level."""
    asked = video.upper.questions.lengths[:count].astype(np.int64)
    shown, nodes = int(video.counts[place]), len(level.tree.tokens)
    groups, context = int(level.groups(shown)), prefix + level.size + len(video.upper.questions.head)
    decoded = found.levels.decoded[place][:count]
    needed = upper.prefill(count * groups, context)
    needed += float(np.sum(groups * upper.tokens(asked + nodes, context + (asked + 1) / 2)))
    needed += count * groups * (1 + nodes) * upper.head + float(np.sum(decoded)) * upper.head
    needed += float(np.sum(upper.tokens(np.maximum(decoded - groups, 0), context + asked)))
    cost = LevelCost(
        windows=vectors, shown=count * shown, groups=count * groups,
        tokens_prefilled=groups * int((asked + context + nodes).sum()), tokens_decoded=int(decoded.sum()),
    )  # fmt: skip
    return cost, needed
