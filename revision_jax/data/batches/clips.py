"""Clips for training: single windows, positive and contrastive, with one question or several about each.

    row number -> clip at random (sampling.py) -> features and tokens; streams.py makes batches of them.

Letters: F frames a window, D feature width, T text tokens, G questions a window.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.annotations.table import QueryTable, SentencesById
from revision_jax.data.batches import sampling
from revision_jax.data.batches.companions import Companions
from revision_jax.data.batches.fitting import NO_ROOM, TOO_LONG, TOO_NEAR, counted, find_fitting
from revision_jax.data.batches.negatives.cross_video import CrossVideo
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.query_tokens import QueryTokens, StoredQueryTokens
from revision_jax.data.batches.sampling import Clip
from revision_jax.data.batches.strategy import Guarded, Negatives
from revision_jax.data.batches.streams import Batching, Rows, Stream, make_stream
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import NOT_PRESENT, PromptEncoder, span_answer
from revision_jax.quoting import quoted

log = logging.getLogger(__name__)
KEPT = 256  # videos whose companions stay in memory


@dataclasses.dataclass(frozen=True)
class ClipKind:
    """Which clips are drawn.

    neg_factor: contrastive clips for each positive one.
    near_miss_fraction: of the contrastive clips that are drawn at random, those made to show a near miss, where the
      query has one.
    questions: asked of a window at once; the paper's is 1. See `companions.Companions`.
    whole: whether a video is short and one window, over which its frames are spread.
    shared: whether a positive window may show other occurrences of its event where it cannot avoid them.
    """

    neg_factor: float = 1.0
    near_miss_fraction: float = 0.0
    questions: int = 1
    whole: bool = False
    shared: bool = False

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
        self.queries = queries = QueryTable.of(queries)
        elsewhere = CrossVideo(queries, durations, hierarchy.window_s, at_random) if kind.whole else at_random
        self.strategy = negatives or elsewhere
        self.guarded = Guarded(self.queries)
        window_s = None if kind.whole else hierarchy.window_s
        fitting = find_fitting(self.guarded, durations, window_s, shared=kind.shared)
        self.positives = fitting.moments[fitting.fits]
        room = fitting.room
        for number in np.flatnonzero(~room).tolist():
            room[number] = self.strategy.elsewhere(self.guarded.of(number))
        fits = np.bincount(self.positives[:, 0], minlength=len(self.queries))
        times = np.where(self.queries.moments.counts > 0, fits, 1) * room
        self.negatives = np.repeat(np.arange(len(self.queries), dtype=np.int32), times)
        self.skipped = counted({TOO_LONG: fitting.too_long, TOO_NEAR: fitting.too_near, NO_ROOM: ~room})
        self.contrastive = round(kind.neg_factor * len(self.negatives))
        self._companions: dict[str, Companions] = {}

    def __len__(self) -> int:
        return len(self.positives) + self.contrastive

    def windows(self, video_id: str) -> Hierarchy:
        """The windows of a video."""
        return self.kind.windows(self.hierarchy, self.durations[video_id])

    def _companions_of(self, video_id: str) -> Companions:
        """The questions about a video; those of up to `KEPT` videos are kept."""
        found = self._companions.get(video_id)
        if found is None:
            own = self.queries.about(video_id).tolist()
            near = self.kind.near_miss_fraction
            found = Companions([self.queries[number] for number in own], self.windows(video_id), near)
            if len(self._companions) >= KEPT:
                self._companions = {}
            self._companions[video_id] = found
        return found

    def draw(self, row: int, rng: np.random.Generator) -> tuple[Clip, ...]:
        """One row -> its clip, and companions about the same window up to `kind.questions`."""
        clip = self._draw(row, rng)
        if self.kind.questions == 1:
            return (clip,)
        return clip, *self._companions_of(clip.video_id).draw(clip, self.kind.questions - 1, rng)

    def _draw(self, row: int, rng: np.random.Generator) -> Clip:
        if row < len(self.positives):
            number, moment = self.positives[row].tolist()
            query = self.queries[number]
            windows = self.windows(query.video_id)
            duration_s = self.durations[query.video_id]
            return sampling.positive(query, moment, rng, windows, duration_s, shared=self.kind.shared)
        row -= len(self.positives)
        whole_passes = self.contrastive - self.contrastive % len(self.negatives)
        number = row % len(self.negatives) if row < whole_passes else rng.integers(len(self.negatives))
        query = self.guarded.of(int(self.negatives[number]))
        return self.strategy.draw(query, rng, self.kind.near_miss_fraction)


@dataclasses.dataclass(frozen=True)
class LoadClip:
    """(record id, clips of a window) -> `video [F, D]`, `tokens [T]`, `loss_mask [T]`, `record_id []`.

    With G > 1 clips, tokens and mask are `[G, T]`. With `query_tokens`, also `query [Q, D]` and `query_mask [Q]`.
    """

    store: FeatureStore
    hierarchy: Hierarchy
    prompts: PromptEncoder
    sentences: Mapping[str, str] | SentencesById
    kind: ClipKind = ClipKind()
    query_tokens: QueryTokens | StoredQueryTokens | None = None

    def _end_s(self, clip: Clip) -> float:
        duration_s = self.store.durations[clip.video_id]
        return clip.window_start_s + self.kind.windows(self.hierarchy, duration_s).window_s

    def prepare(self, drawn: Sequence[tuple[Clip, ...]]) -> None:
        """Encodes the sentences of a batch together, where frames see them."""
        if self.query_tokens is not None:
            self.query_tokens.prepare([self.sentences[clips[0].query_id] for clips in drawn])

    def __call__(self, item: tuple[int, tuple[Clip, ...]], video: np.ndarray | None = None) -> dict[str, np.ndarray]:
        record_id, clips = item
        clip = clips[0]
        end_s = self._end_s(clip)
        info = self.store.manifest.videos[clip.video_id]
        frames = self.hierarchy.frame_indices(clip.window_start_s, end_s, self.store.manifest.fps, info.num_frames)
        texts = [self.prompts.encode_example(self.sentences[c.query_id], answer_text(c)) for c in clips]
        seen = {} if self.query_tokens is None else self.query_tokens(clip.query_id, self.sentences[clip.query_id])
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
        load = LoadClip(split.store, hierarchy, prompts, SentencesById(drawer.queries), kind, seen)
        rows.append(Rows(drawer, load, split.weight))
    return make_stream(rows, batching)


def make_clip_drawer(split: TrainSplit, hierarchy: Hierarchy, kind: ClipKind, batch_size: int) -> ClipDrawer:
    """A `ClipDrawer` that fills at least a batch; ValueError if the queries give too few clips."""
    drawer = ClipDrawer(split.queries, hierarchy, split.store.durations, kind, split.negatives)
    if drawer.skipped:
        logging.warning("of %d queries some give no clips: %s", len(split.queries), drawer.skipped)
    if not len(drawer.positives) or len(drawer) < batch_size:
        raise ValueError(
            f"{len(split.queries)} queries give {len(drawer.positives)} positive, {drawer.contrastive} contrastive "
            f"clips (skipped: {drawer.skipped}); expected at least one positive and a batch of {batch_size}. "
            "Use a longer window, more videos or a smaller batch"
        )
    log.info("%s: %d positive, %d contrastive windows", split.store.path, len(drawer.positives), drawer.contrastive)
    return drawer
