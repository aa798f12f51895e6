"""Groups for training: windows that become one sparse token each, with one question about all of them.

    row number -> group at random (sampling.py) -> features, query tokens and text; streams.py makes batches of them.

Letters: n windows a group, F frames a window, D feature width, Q query tokens, T text tokens.
"""

import collections
import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from revision_jax.data.annotations.queries import Query, check_queries
from revision_jax.data.batches import sampling
from revision_jax.data.batches.clips import NO_ROOM, TOO_LONG, TOO_NEAR, ClipDrawer, DataSet, check_prompts, make_drawer
from revision_jax.data.batches.negatives import Random, Strategy, guarded
from revision_jax.data.batches.query_tokens import QueryTokens
from revision_jax.data.batches.sampling import GroupClip
from revision_jax.data.batches.streams import Rows, Stream, make_stream
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import PromptEncoder, group_answer, normalize_event, presence_answer, video_answer

FEW_VIDEOS = "too few videos without the event"


class PresenceDrawer:
    """The rows of a `ClipDrawer`, each window alone and asked whether the event happens."""

    def __init__(self, clips: ClipDrawer):
        self.clips, self.skipped = clips, clips.skipped

    def __len__(self) -> int:
        return len(self.clips)

    def draw(self, row: int, rng: np.random.Generator) -> GroupClip:
        return sampling.alone(self.clips.draw(row, rng)[0], self.clips.hierarchy.window_s)


class GroupDrawer:
    """One row a moment that fits into a window and leaves room for windows without it -> a group of `size` windows."""

    def __init__(
        self,
        queries: Sequence[Query],
        hierarchy: Hierarchy,
        durations: Mapping[str, float],
        *,
        size: int,
        copies: Sequence[int],
        negatives: Strategy,
    ):
        self.hierarchy, self.durations, self.negatives = hierarchy, durations, negatives
        self.size, self.copies, self.guarded = size, copies, guarded(queries)
        self.rows: list[tuple[Query, int]] = []
        skipped = collections.Counter()
        for query in queries:
            for moment in range(len(query.moments)):
                reason = self._unfit(query, moment)
                skipped.update([reason] if reason else [])
                self.rows += [] if reason else [(query, moment)]
        self.skipped = dict(skipped)

    def __len__(self) -> int:
        return len(self.rows)

    def _unfit(self, query: Query, moment: int) -> str | None:
        """Why a moment has no group, or None."""
        window_s, duration_s = self.hierarchy.window_s, self.durations[query.video_id]
        start, end = query.moments[moment]
        if end - start > window_s:
            return TOO_LONG
        if not len(sampling.positive_starts(query, moment, window_s, duration_s)):
            return TOO_NEAR
        return None if sampling.free_starts(self.guarded[query.query_id], window_s, duration_s) else NO_ROOM

    def draw(self, row: int, rng: np.random.Generator) -> GroupClip:
        query, moment = self.rows[row]
        return sampling.group(
            query,
            moment,
            rng,
            self.hierarchy,
            self.durations[query.video_id],
            size=self.size,
            copies=self.copies,
            negative=functools.partial(self.negatives.draw, self.guarded[query.query_id]),
        )


class VideoGroupDrawer:
    """One row a query whose event happens -> its video among `size - 1` others, of which nobody says that it does."""

    def __init__(self, queries: Sequence[Query], durations: Mapping[str, float], *, size: int):
        self.durations, self.size = durations, size
        self.showing = collections.defaultdict(set)
        for query in queries:
            if query.present:
                self.showing[normalize_event(query.sentence)].add(query.video_id)
        present = [query for query in queries if query.present]
        self.rows = [query for query in present if len(self._others(query)) >= size - 1]
        self.skipped = {FEW_VIDEOS: len(present) - len(self.rows)} if len(self.rows) < len(present) else {}

    def __len__(self) -> int:
        return len(self.rows)

    def _others(self, query: Query) -> list[str]:
        showing = self.showing[normalize_event(query.sentence)]
        return [video_id for video_id in self.durations if video_id not in showing]

    def draw(self, row: int, rng: np.random.Generator) -> GroupClip:
        query = self.rows[row]
        return sampling.video_group(query, self._others(query), rng, self.durations, size=self.size)


@dataclasses.dataclass(frozen=True)
class LoadGroup:
    """(record id, group) -> `video [n, F, D]`, `query [Q, D]`, `query_mask [Q]`, `tokens [T]`, `loss_mask [T]`."""

    store: FeatureStore
    hierarchy: Hierarchy
    prompts: PromptEncoder
    sentences: Mapping[str, str]
    query_tokens: QueryTokens

    def __call__(self, item: tuple[int, GroupClip], video: np.ndarray | None = None) -> dict[str, np.ndarray]:
        record_id, clip = item
        sentence = self.sentences[clip.query_id]
        return {
            "video": self._read_all(clip.windows, video),
            **self.query_tokens(sentence),
            **self.prompts.encode_example(sentence, answer_text(clip), clip.level),
            "record_id": np.int32(record_id),
        }

    def _read_all(self, windows: Sequence[tuple[str, float, float]], video: np.ndarray | None) -> np.ndarray:
        manifest = self.store.manifest
        if video is None:
            video = np.empty((len(windows), self.hierarchy.num_frames, manifest.width), manifest.dtype)
        for (video_id, start_s, end_s), out in zip(windows, video, strict=True):
            total = manifest.videos[video_id].num_frames
            frames = self.hierarchy.frame_indices(start_s, end_s, manifest.fps, total)
            self.store.read(video_id, frames, out)
        return video

    def describe(self, clip: GroupClip) -> str:
        """`query ... in 16 windows of video ...: From 3 to 5.`"""
        videos = list(dict.fromkeys(video_id for video_id, _, _ in clip.windows))
        where = f"video {videos[0]}" if len(videos) == 1 else f"{len(videos)} videos"
        return (
            f"query {clip.query_id} {self.sentences[clip.query_id]!r} in {len(clip.windows)} windows of {where}, "
            f"the first from {clip.windows[0][1]:.1f} s: {answer_text(clip)}"
        )


def answer_text(clip: GroupClip) -> str:
    """The target sentence of a group."""
    match clip.level:
        case "sparse":
            return presence_answer(clip.answer is not None)
        case "group":
            return group_answer(*clip.answer)
        case "retrieval":
            return video_answer(clip.answer[0])
    raise ValueError(f"a group cannot be asked at level {clip.level!r}")


def presence_stream(
    parts: Sequence[tuple[LoadGroup, DataSet]],
    *,
    batch_size: int,
    seed: int,
    neg_factor: float = 1.0,
    near_miss_fraction: float = 0.0,
    **where,
) -> Stream:
    """Batches of single windows, present or absent.

    Args:
      parts: a split with its loader, or several that are mixed by weight.
      Others as in `pipeline.clip_stream`.
    """
    rows = []
    for load, data in parts:
        checked = check_queries(data.queries, load.store.durations)
        check_prompts(checked, load.prompts, presence_answer(True), "sparse")
        drawer = make_drawer(data, load.hierarchy, batch_size, neg_factor, near_miss_fraction)
        rows.append(Rows(PresenceDrawer(drawer), load, data.weight))
    return make_stream(rows, batch_size, seed, **where)


def group_streams(
    parts: Sequence[tuple[LoadGroup, DataSet]],
    *,
    batch_size: int,
    seed: int,
    sizes: Sequence[int],
    kind: str = "windows",
    copies: Sequence[int] = (2, 3),
    near_miss_fraction: float = 0.0,
    place: int = 0,
    places: int | None = None,
    **where,
) -> list[Stream]:
    """One stream of groups for each size.

    Args:
      parts: as in `presence_stream`.
      sizes: windows of a group, or videos.
      kind: "windows" of one video, or whole "videos".
      near_miss_fraction: of a group's contrastive windows that are drawn at random.
      place, places: of the first stream, see `streams.make_stream`; `places` is by default the number of sizes.

    Raises ValueError for queries that do not fit the store, the prompt, or give too few groups.
    """
    largest = max(sizes)
    longest, level = (group_answer(largest - 1, largest), "group") if kind == "windows" else ("", "retrieval")
    places = len(sizes) if places is None else places
    for load, data in parts:
        checked = check_queries(data.queries, load.store.durations)
        check_prompts(checked, load.prompts, longest or video_answer(largest - 1), level)
    streams = []
    for number, size in enumerate(sizes):
        rows = []
        for load, data in parts:
            drawer = make_group_drawer(load, data.queries, size, kind, copies, near_miss_fraction, data.negatives)
            if len(drawer) < batch_size:
                raise ValueError(
                    f"{len(data.queries)} queries give {len(drawer)} groups of {size} {kind} (skipped: "
                    f"{dict(drawer.skipped)}); expected at least a batch of {batch_size}. Use more or longer videos, "
                    "or a smaller batch"
                )
            rows.append(Rows(drawer, load, data.weight))
        streams.append(make_stream(rows, batch_size, seed, place=place + number, places=places, **where))
    if streams and streams[-1].skipped:
        logging.warning("some queries give no groups: %s", streams[-1].skipped)
    return streams


def make_group_drawer(
    load: LoadGroup,
    queries: Sequence[Query],
    size: int,
    kind: str,
    copies: Sequence[int],
    near_miss_fraction: float,
    negatives: Strategy | None = None,
) -> GroupDrawer | VideoGroupDrawer:
    """Draws groups of one size; `negatives` is by default at random."""
    durations = load.store.durations
    if kind == "videos":
        return VideoGroupDrawer(queries, durations, size=size)
    negatives = negatives or Random(load.hierarchy, durations, near_miss_fraction)
    return GroupDrawer(queries, load.hierarchy, durations, size=size, copies=copies, negatives=negatives)
