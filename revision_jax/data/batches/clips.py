"""Clips for training: single windows, positive and contrastive, with one question or several about each.

    row number -> clip at random (sampling.py) -> features and tokens; streams.py makes batches of them.

Letters: F frames a window, D feature width, T text tokens, G questions a window.
"""

import collections
import dataclasses
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from revision_jax.data.annotations.queries import Query, check_queries
from revision_jax.data.batches import sampling
from revision_jax.data.batches.negatives import Random, Strategy, guarded
from revision_jax.data.batches.sampling import Clip
from revision_jax.data.batches.streams import Pipeline, Rows, Stream, join, make_stream
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import NOT_PRESENT, PromptEncoder, span_answer

TOO_LONG = "longer than the window"
TOO_NEAR = "another occurrence too near"
NO_ROOM = "no window without the event"


class ClipDrawer:
    """Row number -> random clip: first one row a moment that fits, then the contrastive rows.

    A contrastive row belongs to the query of a positive row, or to one whose event never happens; there are
    `neg_factor` times as many as of these together. A fraction of a pass is drawn at random.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        hierarchy: Hierarchy,
        durations: Mapping[str, float],
        neg_factor: float,
        near_miss_fraction: float,
        questions_per_window: int = 1,
        negatives: Strategy | None = None,
    ):
        self.hierarchy, self.durations = hierarchy, durations
        self.strategy = negatives or Random(hierarchy, durations, near_miss_fraction)
        self.questions = questions_per_window
        by_video = collections.defaultdict(list)
        for query in queries:
            by_video[query.video_id].append(query)
        self.companions = {
            video_id: sampling.Companions(by_video[video_id], hierarchy, near_miss_fraction) for video_id in durations
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
            room = sampling.free_starts(self.guarded[query.query_id], hierarchy.window_s, durations[query.video_id])
            self.negatives += [query] * (len(fitting) if query.present else 1) if room else []
            skipped.update([] if room else [NO_ROOM])
        self.skipped = dict(skipped)
        self.contrastive = round(neg_factor * len(self.negatives))

    def __len__(self) -> int:
        return len(self.positives) + self.contrastive

    def _unfit(self, query: Query, moment: int) -> str | None:
        """Why a moment has no positive window, or None."""
        start, end = query.moments[moment]
        if end - start > self.hierarchy.window_s:
            return TOO_LONG
        duration_s = self.durations[query.video_id]
        fits = len(sampling.positive_starts(query, moment, self.hierarchy.window_s, duration_s)) > 0
        return None if fits else TOO_NEAR

    def draw(self, row: int, rng: np.random.Generator) -> tuple[Clip, ...]:
        """One row -> its clip, and companions about the same window up to `questions_per_window`."""
        clip = self._draw(row, rng)
        if self.questions == 1:
            return (clip,)
        return clip, *self.companions[clip.video_id].draw(clip, self.questions - 1, rng)

    def _draw(self, row: int, rng: np.random.Generator) -> Clip:
        if row < len(self.positives):
            query, moment = self.positives[row]
            return sampling.positive(query, moment, rng, self.hierarchy, self.durations[query.video_id])
        row -= len(self.positives)
        whole_passes = self.contrastive - self.contrastive % len(self.negatives)
        number = row % len(self.negatives) if row < whole_passes else rng.integers(len(self.negatives))
        return self.strategy.draw(self.guarded[self.negatives[number].query_id], rng)


@dataclasses.dataclass(frozen=True)
class LoadClip:
    """(record id, clips of a window) -> `video [F, D]`, `tokens [T]`, `loss_mask [T]`, `record_id []`.

    With G > 1 clips, tokens and mask are `[G, T]`.
    """

    store: FeatureStore
    hierarchy: Hierarchy
    prompts: PromptEncoder
    sentences: Mapping[str, str]

    def __call__(self, item: tuple[int, tuple[Clip, ...]], video: np.ndarray | None = None) -> dict[str, np.ndarray]:
        record_id, clips = item
        clip = clips[0]
        end_s = clip.window_start_s + self.hierarchy.window_s
        info = self.store.manifest.videos[clip.video_id]
        frames = self.hierarchy.frame_indices(clip.window_start_s, end_s, self.store.manifest.fps, info.num_frames)
        texts = [self.prompts.encode_example(self.sentences[c.query_id], answer_text(c)) for c in clips]
        joined = {key: np.stack([text[key] for text in texts]) for key in ("tokens", "loss_mask")}
        return {
            "video": self.store.read(clip.video_id, frames, video),
            **(joined if len(clips) > 1 else texts[0]),
            "record_id": np.int32(record_id),
        }

    def describe(self, clips: tuple[Clip, ...]) -> str:
        """`query ... in video ..., 10.0 to 74.0 s: From 07 to 13.`"""
        clip = clips[0]
        end_s = clip.window_start_s + self.hierarchy.window_s
        return (
            f"query {clip.query_id} {self.sentences[clip.query_id]!r} in video {clip.video_id}, "
            f"{clip.window_start_s:.1f} to {end_s:.1f} s: {answer_text(clip)}"
        )


def answer_text(clip: Clip) -> str:
    """The target sentence of a clip."""
    return NOT_PRESENT if clip.answer is None else span_answer(*clip.answer)


def make_pipeline(
    store: FeatureStore,
    queries: Sequence[Query],
    hierarchy: Hierarchy,
    prompts: PromptEncoder,
    *,
    read_threads: int = 4,
    prefetch: int = 8,
    **options,
) -> Pipeline:
    """Training batches of one split's windows alone; the other arguments are those of `clip_stream`."""
    stream = clip_stream([DataSet(store, queries)], hierarchy, prompts, **options)
    return join([[stream]], read_threads=read_threads, prefetch=prefetch)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A prepared split that a stream draws from.

    negatives: where its contrastive windows come from; None = at random. weight: its share of a mixture.
    """

    store: FeatureStore
    queries: Sequence[Query]
    negatives: Strategy | None = None
    weight: float = 1.0


def clip_stream(
    data: Sequence[DataSet],
    hierarchy: Hierarchy,
    prompts: PromptEncoder,
    *,
    batch_size: int,
    seed: int,
    neg_factor: float = 1.0,
    near_miss_fraction: float = 0.0,
    questions_per_window: int = 1,
    **where,
) -> Stream:
    """Batches of positive and contrastive windows: `video [B, F, D]`, `tokens` and `loss_mask [B, (G,) T]`.

    Args:
      data: a split, or several that are mixed by weight.
      batch_size: clips a batch, over all shards.
      neg_factor: contrastive clips for each positive one.
      near_miss_fraction: of the contrastive clips, those made to show a near miss, where there is one.
      questions_per_window: questions asked of a window at once; the paper's is 1. See `sampling.Companions`.
      where: `num_epochs`, `shard`, `place` and `places` of `streams.make_stream`.

    Raises ValueError for queries that do not fit the store, the window or the prompt.
    """
    longest = span_answer(hierarchy.num_frames - 1, hierarchy.num_frames - 1)
    rows = []
    for own in data:
        queries = check_queries(own.queries, own.store.durations)
        check_prompts(queries, prompts, longest, "dense")
        drawer = make_drawer(
            own, hierarchy, batch_size, neg_factor, near_miss_fraction, questions_per_window=questions_per_window
        )
        load = LoadClip(own.store, hierarchy, prompts, {query.query_id: query.sentence for query in queries})
        rows.append(Rows(drawer, load, own.weight))
    return make_stream(rows, batch_size, seed, **where)


def make_drawer(
    data: DataSet, hierarchy, batch_size, neg_factor, near_miss_fraction, questions_per_window=1
) -> ClipDrawer:
    """A `ClipDrawer` that fills at least a batch; ValueError if the queries give too few clips."""
    queries, durations = data.queries, data.store.durations
    drawer = ClipDrawer(
        queries, hierarchy, durations, neg_factor, near_miss_fraction, questions_per_window, data.negatives
    )
    if drawer.skipped:
        logging.warning("of %d queries some give no clips: %s", len(queries), drawer.skipped)
    if not drawer.positives or len(drawer) < batch_size:
        raise ValueError(
            f"{len(queries)} queries give {len(drawer.positives)} positive, {drawer.contrastive} contrastive "
            f"clips (skipped: {drawer.skipped}); expected at least one positive and a batch of {batch_size}. "
            "Use a longer window, more videos or a smaller batch"
        )
    return drawer


def check_prompts(queries: Sequence[Query], prompts: PromptEncoder, longest: str, level: str) -> None:
    """Raises ValueError now, not in mid-run, if a question of a level with its longest answer is too long."""
    for query in queries:
        try:
            prompts.encode_example(query.sentence, longest, level)
        except ValueError as error:
            raise ValueError(f"query {query.query_id!r}: {error}") from error
