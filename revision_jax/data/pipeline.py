"""Clips for training as a Grain data set: deterministic by (seed, index), the same for any number of hosts.

    rows (positives, then contrastive)            int
    -> shuffle, repeat                            every epoch in another order
    -> clip at random                             Clip (sampling.py), random by (seed, global index)
    -> shard                                      every `count`-th clip from `index` on
    -> features and tokens                        dict of arrays
    -> batch -> iterator                          read ahead in threads

Letters: B batch, F frames a window, D feature width, T text tokens.
"""

import collections
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np

from revision_jax.data import sampling
from revision_jax.data.features import FeatureStore
from revision_jax.data.moments import Query, check_queries
from revision_jax.data.sampling import Clip
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import NOT_PRESENT, PromptEncoder, span_answer

TOO_LONG = "longer than the window"
TOO_NEAR = "another occurrence too near"
NO_ROOM = "no window without the event"


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Batches and what is known about them.

    batches: data set of dicts: `video [B, F, D]` in the stored dtype, `tokens [B, T]` int32, `loss_mask` bool
      `[B, T]`, `record_id [B]` int32, the clip's place in the stream over all epochs and hosts. With G > 1 questions
      a window, tokens and mask are `[B, G, T]`.
    epoch_batches: whole batches in one epoch of this shard.
    skipped: reason -> number of moments or queries that give no clips.
    describe_record: record id -> one line about that clip.
    """

    batches: grain.IterDataset
    epoch_batches: int
    skipped: Mapping[str, int]
    describe_record: Callable[[int], str]


class ClipDrawer:
    """Row number -> random clip: first one row a moment that fits, then the contrastive rows.

    A contrastive row belongs to the query of a positive row, or to one whose event never happens; there are
    `neg_factor` times as many as of these together. A fraction of a pass is drawn at random.
    """

    def __init__(self, queries, hierarchy, durations, neg_factor, near_miss_fraction, questions_per_window=1):
        self.hierarchy, self.durations = hierarchy, durations
        self.questions = questions_per_window
        by_video = collections.defaultdict(list)
        for query in queries:
            by_video[query.video_id].append(query)
        self.companions = {
            video_id: sampling.Companions(own, hierarchy, near_miss_fraction) for video_id, own in by_video.items()
        }
        self.near_miss_fraction = near_miss_fraction
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
            room = sampling.free_starts(query, hierarchy.window_s, durations[query.video_id])
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
        return clip, *self.companions[clip.video_id].draw(clip, self.questions - 1, rng)

    def _draw(self, row: int, rng: np.random.Generator) -> Clip:
        if row < len(self.positives):
            query, moment = self.positives[row]
            return sampling.positive(query, moment, rng, self.hierarchy, self.durations[query.video_id])
        row -= len(self.positives)
        whole_passes = self.contrastive - self.contrastive % len(self.negatives)
        number = row % len(self.negatives) if row < whole_passes else rng.integers(len(self.negatives))
        query = self.negatives[number]
        return sampling.contrastive(query, rng, self.hierarchy, self.durations[query.video_id], self.near_miss_fraction)


@dataclasses.dataclass(frozen=True)
class LoadClip:
    """(record id, clips of a window) -> `video [F, D]`, `tokens [T]`, `loss_mask [T]`, `record_id []`.

    With G > 1 clips, tokens and mask are `[G, T]`.
    """

    store: FeatureStore
    hierarchy: Hierarchy
    prompts: PromptEncoder
    sentences: Mapping[str, str]

    def __call__(self, item: tuple[int, tuple[Clip, ...]]) -> dict[str, np.ndarray]:
        record_id, clips = item
        clip = clips[0]
        end_s = clip.window_start_s + self.hierarchy.window_s
        info = self.store.manifest.videos[clip.video_id]
        frames = self.hierarchy.frame_indices(clip.window_start_s, end_s, self.store.manifest.fps, info.num_frames)
        texts = [self.prompts.encode_example(self.sentences[c.query_id], answer_text(c)) for c in clips]
        joined = {key: np.stack([text[key] for text in texts]) for key in ("tokens", "loss_mask")}
        return {
            "video": self.store.read(clip.video_id, frames),
            **(joined if len(clips) > 1 else texts[0]),
            "record_id": np.int32(record_id),
        }


def _numbered(record_id: int, clips: tuple[Clip, ...]) -> tuple[int, tuple[Clip, ...]]:
    return record_id, clips


def answer_text(clip: Clip) -> str:
    """The target sentence of a clip."""
    return NOT_PRESENT if clip.answer is None else span_answer(*clip.answer)


def make_pipeline(
    store: FeatureStore,
    queries: Sequence[Query],
    hierarchy: Hierarchy,
    prompts: PromptEncoder,
    *,
    batch_size: int,
    seed: int,
    neg_factor: float = 1.0,
    near_miss_fraction: float = 0.0,
    questions_per_window: int = 1,
    num_epochs: int | None = None,
    shard: tuple[int, int] = (0, 1),
    read_threads: int = 4,
    prefetch: int = 8,
) -> Pipeline:
    """Training batches of positive and contrastive windows (see the module's picture).

    Args:
      batch_size: clips a batch, over all shards.
      neg_factor: contrastive clips for each positive one.
      near_miss_fraction: of the contrastive clips, those made to show a near miss, where there is one.
      questions_per_window: questions asked of a window at once; the paper's is 1. See `sampling.Companions`.
      num_epochs: None = without end. A batch may span two epochs; the last incomplete one is dropped.
      shard: (index, count) of this host.
      read_threads, prefetch: threads that load batches, and how many batches they may be ahead.

    Raises ValueError for queries that do not fit the store, the window or the prompt.
    """
    queries = check_queries(queries, store.durations)
    index, count = shard
    if batch_size % count or not 0 <= index < count:
        raise ValueError(f"shard {index} of {count}, batch_size {batch_size}; expected equal parts, index < count")
    check_prompts(queries, hierarchy, prompts)
    drawer = ClipDrawer(queries, hierarchy, store.durations, neg_factor, near_miss_fraction, questions_per_window)
    if drawer.skipped:
        logging.warning("of %d queries some give no clips: %s", len(queries), drawer.skipped)
    if not drawer.positives or len(drawer) < batch_size:
        raise ValueError(
            f"{len(queries)} queries give {len(drawer.positives)} positive, {drawer.contrastive} contrastive "
            f"clips (skipped: {drawer.skipped}); expected at least one positive and a batch of {batch_size}. "
            "Use a longer window, more videos or a smaller batch"
        )
    clips = grain.MapDataset.range(len(drawer)).seed(seed).shuffle().repeat(num_epochs).random_map(drawer.draw)
    load = LoadClip(store, hierarchy, prompts, {query.query_id: query.sentence for query in queries})
    batches = (
        clips.map_with_index(_numbered)[index::count]
        .map(load)
        .batch(batch_size // count, drop_remainder=True)
        .to_iter_dataset(grain.ReadOptions(num_threads=read_threads, prefetch_buffer_size=prefetch))
    )
    return Pipeline(batches, len(drawer) // batch_size, drawer.skipped, Describe(clips, load))


def check_prompts(queries: Sequence[Query], hierarchy: Hierarchy, prompts: PromptEncoder) -> None:
    """Raises ValueError now, not in mid-run, if a question with its longest answer is too long."""
    longest = span_answer(hierarchy.num_frames - 1, hierarchy.num_frames - 1)
    for query in queries:
        try:
            prompts.encode_example(query.sentence, longest)
        except ValueError as error:
            raise ValueError(f"query {query.query_id!r}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Describe:
    """record id -> `query ... in video ..., 10.0 to 74.0 s: From 07 to 13.`"""

    clips: grain.MapDataset
    load: LoadClip

    def __call__(self, record_id: int) -> str:
        clip = self.clips[record_id][0]
        end_s = clip.window_start_s + self.load.hierarchy.window_s
        return (
            f"query {clip.query_id} {self.load.sentences[clip.query_id]!r} in video {clip.video_id}, "
            f"{clip.window_start_s:.1f} to {end_s:.1f} s: {answer_text(clip)}"
        )
