"""Clips for training: single windows, positive and contrastive, with one question or several about each.

    row number -> clip at random (sampling.py) -> features and tokens; streams.py makes batches of them.

Letters: F frames a window, D feature width, T text tokens, G questions a window.
"""

import collections
import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches import sampling
from revision_jax.data.batches.companions import Companions
from revision_jax.data.batches.negatives.cross_video import CrossVideo
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.query_tokens import QueryTokens, StoredQueryTokens
from revision_jax.data.batches.sampling import Clip
from revision_jax.data.batches.strategy import Negatives, guarded
from revision_jax.data.batches.streams import Batching, Rows, Stream, make_stream
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import NOT_PRESENT, PromptEncoder, span_answer
from revision_jax.quoting import quoted

log = logging.getLogger(__name__)
TOO_LONG = "longer than the window"
TOO_NEAR = "another occurrence too near"
NO_ROOM = "no window without the event"


@dataclasses.dataclass(frozen=True)
class ClipKind:
    """Which clips are drawn.

    neg_factor: contrastive clips for each positive one.
    near_miss_fraction: of the contrastive clips that are drawn at random, those made to show a near miss, where the
      query has one.
    questions: asked of a window at once; the paper's is 1. See `companions.Companions`.
    whole: whether a video is short and one window, over which its frames are spread.
    """

    neg_factor: float = 1.0
    near_miss_fraction: float = 0.0
    questions: int = 1
    whole: bool = False

    def windows(self, hierarchy: Hierarchy, duration_s: float) -> Hierarchy:
        """The windows of a video that lasts so many seconds."""
        return dataclasses.replace(hierarchy, window_s=duration_s) if self.whole else hierarchy


class ClipDrawer:
    """Row number -> random clip: first one row for each moment that fits, then the contrastive rows.

    A contrastive row belongs to the query of a positive row, or to a query whose event never happens; there are
    `neg_factor` times as many as of these together. A fraction of a pass is drawn at random.

    Args:
      durations: seconds by video id.
      negatives: where contrastive windows come from; None = at random, with `kind.whole` in other videos.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        hierarchy: Hierarchy,
        durations: Mapping[str, float],
        kind: ClipKind,
        negatives: Negatives | None = None,
    ):
        self.hierarchy, self.durations, self.kind = hierarchy, durations, kind
        at_random = Random(hierarchy, durations)
        elsewhere = CrossVideo(queries, durations, hierarchy.window_s, at_random) if kind.whole else at_random
        self.strategy = negatives or elsewhere
        by_video = collections.defaultdict(list)
        for query in queries:
            by_video[query.video_id].append(query)
        self.companions = {
            video_id: Companions(by_video[video_id], self.windows(video_id), kind.near_miss_fraction)
            for video_id in durations
        }
        self.guarded = guarded(queries)
        self.positives: list[tuple[Query, int]] = []
        self.negatives: list[Query] = []
        skipped = collections.Counter()
        for query in queries:
            fitting = []
            for moment in range(len(query.moments)):
                reason = self._unfit(query, moment)
                skipped.update([reason] if reason else [])
                fitting += [] if reason else [(query, moment)]
            self.positives += fitting
            room = self._has_room(self.guarded[query.query_id])
            self.negatives += [query] * (len(fitting) if query.present else 1) if room else []
            skipped.update([] if room else [NO_ROOM])
        self.skipped = dict(skipped)
        self.contrastive = round(kind.neg_factor * len(self.negatives))

    def __len__(self) -> int:
        return len(self.positives) + self.contrastive

    def windows(self, video_id: str) -> Hierarchy:
        """The windows of a video."""
        return self.kind.windows(self.hierarchy, self.durations[video_id])

    def _has_room(self, query: Query) -> bool:
        """Whether there is a window without the event: in the query's video, or in another where one may be taken."""
        window_s, duration_s = self.windows(query.video_id).window_s, self.durations[query.video_id]
        return bool(sampling.free_starts(query, window_s, duration_s)) or self.strategy.elsewhere(query)

    def _unfit(self, query: Query, moment: int) -> str | None:
        """Why a moment has no positive window, or None."""
        start, end = query.moments[moment]
        window_s, duration_s = self.windows(query.video_id).window_s, self.durations[query.video_id]
        if end - start > window_s:
            return TOO_LONG
        fits = len(sampling.positive_starts(query, moment, window_s, duration_s)) > 0
        return None if fits else TOO_NEAR

    def draw(self, row: int, rng: np.random.Generator) -> tuple[Clip, ...]:
        """One row -> its clip, and companions about the same window up to `kind.questions`."""
        clip = self._draw(row, rng)
        if self.kind.questions == 1:
            return (clip,)
        return clip, *self.companions[clip.video_id].draw(clip, self.kind.questions - 1, rng)

    def _draw(self, row: int, rng: np.random.Generator) -> Clip:
        if row < len(self.positives):
            query, moment = self.positives[row]
            windows = self.windows(query.video_id)
            return sampling.positive(query, moment, rng, windows, self.durations[query.video_id])
        row -= len(self.positives)
        whole_passes = self.contrastive - self.contrastive % len(self.negatives)
        number = row % len(self.negatives) if row < whole_passes else rng.integers(len(self.negatives))
        query = self.guarded[self.negatives[number].query_id]
        return self.strategy.draw(query, rng, self.kind.near_miss_fraction)


@dataclasses.dataclass(frozen=True)
class LoadClip:
    """(record id, clips of a window) -> `video [F, D]`, `tokens [T]`, `loss_mask [T]`, `record_id []`.

    With G > 1 clips, tokens and mask are `[G, T]`. With `query_tokens`, also `query [Q, D]` and `query_mask [Q]`.
    """

    store: FeatureStore
    hierarchy: Hierarchy
    prompts: PromptEncoder
    sentences: Mapping[str, str]
    kind: ClipKind = ClipKind()
    query_tokens: QueryTokens | StoredQueryTokens | None = None

    def _end_s(self, clip: Clip) -> float:
        duration_s = self.store.durations[clip.video_id]
        return clip.window_start_s + self.kind.windows(self.hierarchy, duration_s).window_s

    def __call__(self, item: tuple[int, tuple[Clip, ...]], video: np.ndarray | None = None) -> dict[str, np.ndarray]:
        record_id, clips = item
        clip = clips[0]
        end_s = self._end_s(clip)
        info = self.store.manifest.videos[clip.video_id]
        frames = self.hierarchy.frame_indices(clip.window_start_s, end_s, self.store.manifest.fps, info.num_frames)
        texts = [self.prompts.encode_example(self.sentences[c.query_id], answer_text(c)) for c in clips]
        seen = {} if self.query_tokens is None else self.query_tokens(self.sentences[clip.query_id])
        joined = {key: np.stack([text[key] for text in texts]) for key in ("tokens", "loss_mask")}
        return {
            "video": self.store.read(clip.video_id, frames, video),
            **seen,
            **(joined if len(clips) > 1 else texts[0]),
            "record_id": np.int32(record_id),
        }

    def describe(self, clips: tuple[Clip, ...]) -> str:
        """`query ... in video ..., 10.0 to 74.0 s: From 07 to 13.`"""
        clip = clips[0]
        end_s = self._end_s(clip)
        return (
            f"query {clip.query_id} {quoted(self.sentences[clip.query_id])} in video {clip.video_id}, "
            f"{clip.window_start_s:.1f} to {end_s:.1f} s: {answer_text(clip)}"
        )


def answer_text(clip: Clip) -> str:
    """The target sentence of a clip."""
    return NOT_PRESENT if clip.answer is None else span_answer(*clip.answer)


def clip_stream(
    splits: Sequence[TrainSplit], hierarchy: Hierarchy, prompts: PromptEncoder, kind: ClipKind, batching: Batching,
    query_tokens: Sequence[QueryTokens | StoredQueryTokens | None] = (),
) -> Stream:  # fmt: skip
    """Batches of positive and contrastive windows: `video [B, F, D]`, `tokens` and `loss_mask [B, (G,) T]`.

    splits: one, or several that are mixed by weight.
    query_tokens: of each split, where frames see the query; then also `query [B, Q, D]` and `query_mask [B, Q]`.

    Raises ValueError for queries that do not fit the store, the window or the prompt, or give too few clips.
    """
    longest = span_answer(hierarchy.num_frames - 1, hierarchy.num_frames - 1)
    rows = []
    for split, seen in zip(splits, query_tokens or [None] * len(splits), strict=True):
        split = split.fitting(prompts, longest, "dense")
        drawer = make_clip_drawer(split, hierarchy, kind, batching.batch_size)
        sentences = {query.query_id: query.sentence for query in split.queries}
        load = LoadClip(split.store, hierarchy, prompts, sentences, kind, seen)
        rows.append(Rows(drawer, load, split.weight))
    return make_stream(rows, batching)


def make_clip_drawer(split: TrainSplit, hierarchy: Hierarchy, kind: ClipKind, batch_size: int) -> ClipDrawer:
    """A `ClipDrawer` that fills at least a batch; ValueError if the queries give too few clips."""
    drawer = ClipDrawer(split.queries, hierarchy, split.store.durations, kind, split.negatives)
    if drawer.skipped:
        logging.warning("of %d queries some give no clips: %s", len(split.queries), drawer.skipped)
    if not drawer.positives or len(drawer) < batch_size:
        raise ValueError(
            f"{len(split.queries)} queries give {len(drawer.positives)} positive, {drawer.contrastive} contrastive "
            f"clips (skipped: {drawer.skipped}); expected at least one positive and a batch of {batch_size}. "
            "Use a longer window, more videos or a smaller batch"
        )
    log.info("%s: %d positive, %d contrastive windows", split.store.path, len(drawer.positives), drawer.contrastive)
    return drawer
