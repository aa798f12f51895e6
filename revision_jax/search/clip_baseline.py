"""Frame retrieval by CLIP similarity alone: the baseline that long-video models have to beat.

Letters: Q queries, N frames, D width, K moments kept.

Every stretch of L frames is scored by the cosine similarity of its frames to the sentence, in one of three ways,
and becomes a moment of the same length; then the same temporal non-maximum suppression as in the search. How, and
how long, is chosen on the validation split. Confidence is the similarity itself.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.metrics.grounding import best_iou, hits_at_k
from revision_jax.models.precision import product
from revision_jax.search.packing.packer import required
from revision_jax.search.packing.padding import FRAME_STEP, QUERY_STEP, pack_rows, pad_frames, rounded
from revision_jax.search.ranking import rank_moments
from revision_jax.search.result import Result
from revision_jax.search.sentences import Sentences

# What scores a stretch: its best frame, the mean of its best three, or the mean of them all.
BEST_FRAMES = {"max_frame": 1, "top3_mean": 3, "sliding_window": 0}
LENGTHS_S = (4.0, 8.0, 12.0, 16.0, 24.0, 32.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """A video with queries, for choosing a variant.

    Attributes:
      queries: `[Q, D]` sentence features.
      truths: true moments of each query, empty for an absent one.
    """

    video: VideoFeatures
    queries: np.ndarray
    truths: Sequence[Sequence[tuple[float, float]]]


@dataclasses.dataclass(frozen=True)
class ClipRetrieval:
    """One variant of the baseline.

    Attributes:
      variant: key of `BEST_FRAMES`. With `sliding_window` a moment is the stretch itself; else it is centred on
        the frames that score it.
      length_s: length of a moment in seconds.
      top_k, nms_iou: as in `SearchSettings`.
    """

    variant: str
    length_s: float
    top_k: int = 50
    nms_iou: float = 0.5

    def __post_init__(self):
        if self.variant not in BEST_FRAMES:
            raise ValueError(f"CLIP variant {self.variant!r} does not exist; expected one of {list(BEST_FRAMES)}.")
        if not self.length_s > 0:
            raise ValueError(f"a CLIP moment of {self.length_s} s; expected seconds > 0.")

    def search(
        self, video: VideoFeatures, sentences: Sentences, *, threshold: float = float("-inf")
    ) -> list[Result]:  # fmt: skip
        """Ranked moments of every sentence, by its holistic features (`similar`); see `Searcher.search`.

        Raises:
          ValueError: the sentences have no holistic features.
        """
        queries = required(sentences.similar, "the CLIP baseline needs the sentences' features (similar)")
        features, found = jnp.asarray(pad_frames(video.features)), []
        length = np.int32(max(round(self.length_s * video.fps), 1))
        timing = _Timing(np.int32(len(video.features)), length, np.float32(video.fps), np.float32(video.duration_s))
        kept = _Kept(BEST_FRAMES[self.variant], self.top_k, self.nms_iou)
        for first in range(0, len(queries), QUERY_STEP):  # one shape for any number of queries
            some = queries[first : first + QUERY_STEP]
            moments = _retrieve(kept, features, jnp.asarray(pack_rows(np.asarray(some), QUERY_STEP)), timing)
            found += list(jax.device_get(moments)[: len(some)])
        return [
            Result(text, moments[np.isfinite(moments[:, 2])].astype(np.float64), threshold, 0, 0)
            for text, moments in zip(sentences.texts, found)
        ]


def table_bytes(frames: int, width: int) -> int:
    """What the baseline holds of a device at most while it searches a video of so many frames of features `[width]`."""
    padded = rounded(frames, FRAME_STEP, 2)
    # Similarities, their sum and shifted copies, and for each of the best frames its value and place, twice; moments.
    tables = 8 + 4 * max(BEST_FRAMES.values())
    return 4 * padded * (QUERY_STEP * tables + 3 * width)


def choose_variant(cases: Iterable[Case], *, top_k: int = 50, nms_iou: float = 0.5) -> ClipRetrieval:
    """The variant and length with the best R@1 at IoU 0.3 over all present queries; mean IoU breaks ties.

    Args:
      cases: read once, one after the other, so that they need not lie in memory together.

    Raises:
      ValueError: no case has a present query.
    """
    grid = [ClipRetrieval(variant, length_s, 1, nms_iou) for variant in BEST_FRAMES for length_s in LENGTHS_S]
    overlaps: list[list[np.ndarray]] = [[] for _ in grid]
    for case in cases:
        present = [i for i, truth in enumerate(case.truths) if len(truth)]
        if not present:
            continue
        asked = Sentences([""] * len(present), similar=case.queries[present])
        for choice, found in zip(grid, overlaps):
            results = choice.search(case.video, asked)
            found += [best_iou(result.moments, case.truths[i]) for result, i in zip(results, present, strict=True)]
    if not overlaps[0]:
        raise ValueError("no validation query is present in its video; the CLIP baseline cannot be chosen on them.")
    scores = [
        (hits_at_k(found, (1,), (0.3,))["R1@0.3"].mean(), np.mean([max(own[:1], default=0.0) for own in found]))
        for found in overlaps
    ]
    best = grid[scores.index(max(scores))]
    return ClipRetrieval(best.variant, best.length_s, top_k, nms_iou)


class _Timing(NamedTuple):
    """Frames of the video and of a stretch, frames a second, seconds of the video: dynamic, one program serves all."""

    num_frames: jax.Array
    length: jax.Array
    fps: jax.Array
    duration_s: jax.Array


class _Kept(NamedTuple):
    """Best frames that score a stretch (0: all), moments kept, and the IoU above which one is dropped: static."""

    best: int
    top_k: int
    nms_iou: float


@functools.partial(jax.jit, static_argnums=0)
def _retrieve(kept: _Kept, features: jax.Array, queries: jax.Array, timing: _Timing) -> jax.Array:
    """Features `[N, D]`, queries `[Q, D]` -> moments `[Q, K, 3]` float32."""
    num_frames, length, fps, duration_s = timing
    normalise = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    similarity = product(normalise(queries.astype(jnp.float32)), normalise(features.astype(jnp.float32)).T)  # [Q, N]
    length = jnp.minimum(length, num_frames)
    score, centre = _score_stretches(similarity, length, kept.best)
    fits = jnp.arange(similarity.shape[1]) + length <= num_frames
    start = centre / fps - length / fps / 2
    start, end = (jnp.clip(x, 0.0, duration_s) for x in (start, start + length / fps))
    return rank_moments(start, end, jnp.where(fits, score, -jnp.inf), top_k=kept.top_k, nms_iou=kept.nms_iou)


def _score_stretches(similarity: jax.Array, length: jax.Array, best: int) -> tuple[jax.Array, jax.Array]:
    """Frames t .. t + L - 1 for every t: their score `[Q, N]` and the centre of a moment in frames `[Q, N]`."""
    frame = jnp.broadcast_to(jnp.arange(similarity.shape[1], dtype=jnp.float32), similarity.shape)

    def add(offset: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        total, tops, places = carry
        value, place = jnp.roll(similarity, -offset, axis=1), frame + offset
        total = total + value
        for i in range(best):  # insertion into the sorted best frames
            better = value > tops[i]
            value, top = jnp.where(better, tops[i], value), jnp.where(better, value, tops[i])
            place, where = jnp.where(better, places[i], place), jnp.where(better, place, places[i])
            tops, places = tops.at[i].set(top), places.at[i].set(where)
        return total, tops, places

    empty = jnp.full((best, *similarity.shape), -jnp.inf)
    total, tops, places = jax.lax.fori_loop(0, length, add, (jnp.zeros_like(similarity), empty, jnp.zeros_like(empty)))
    if not best:
        return total / length, frame + length / 2
    used = jnp.isfinite(tops)  # a stretch may be shorter than `best`
    mean = lambda x: jnp.sum(jnp.where(used, x, 0.0), axis=0) / jnp.maximum(used.sum(axis=0), 1)
    return mean(tops), mean(places) + 0.5
