"""Groups for training: windows that become one sparse token each, with one question about all of them.

    row number -> group at random (sampling.py) -> features, query tokens and text (load_group.py); streams.py makes
    batches of them.

Letters: n windows a group, F frames a window, D feature width, Q query tokens, T text tokens.
"""

import collections
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches import sampling
from revision_jax.data.batches.clips import NO_ROOM, TOO_LONG, TOO_NEAR
from revision_jax.data.batches.load_group import LoadGroup
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.sampling import Group
from revision_jax.data.batches.strategy import Negatives, guarded
from revision_jax.data.batches.streams import Batching, Rows, Stream, make_stream
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import group_answer, normalize_event, video_answer

FEW_VIDEOS = "too few videos without the event"


@dataclasses.dataclass(frozen=True)
class GroupKind:
    """Which groups are drawn.

    of: what a group consists of: "windows" of one video, or whole "videos".
    copies: possible numbers of windows around the event; one is drawn for each group. Not used for videos.
    near_miss_fraction: of the contrastive windows that are drawn at random, those made to show a near miss, where the
      query has one. Not used for videos.
    """

    of: Literal["windows", "videos"] = "windows"
    copies: Sequence[int] = (2, 3)
    near_miss_fraction: float = 0.0

    def longest_answer(self, size: int) -> tuple[str, str]:
        """The longest answer about a group of `size`, and the level at which it is asked."""
        if self.of == "windows":
            return group_answer(size - 1, size), "group"
        return video_answer(size - 1), "retrieval"


class GroupDrawer:
    """One row for each moment that fits into a window and leaves room for windows without it -> a group of `size`.

    durations: seconds by video id.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        hierarchy: Hierarchy,
        durations: Mapping[str, float],
        *,
        size: int,
        kind: GroupKind,
        negatives: Negatives,
    ):
        self.hierarchy, self.durations, self.negatives = hierarchy, durations, negatives
        self.size, self.kind, self.guarded = size, kind, guarded(queries)
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

    def draw(self, row: int, rng: np.random.Generator) -> Group:
        query, moment = self.rows[row]
        duration_s, without = self.durations[query.video_id], self.guarded[query.query_id]
        return sampling.group(
            lambda rng: sampling.positive(query, moment, rng, self.hierarchy, duration_s),
            lambda rng: self.negatives.draw(without, rng, self.kind.near_miss_fraction),
            rng,
            size=self.size,
            copies=self.kind.copies,
            window_s=self.hierarchy.window_s,
        )


class VideoGroupDrawer:
    """One row for each query whose event happens -> its video among `size - 1` others in which no query says the same.

    durations: seconds by video id.
    """

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

    def draw(self, row: int, rng: np.random.Generator) -> Group:
        query = self.rows[row]
        return sampling.video_group(query, self._others(query), rng, self.durations, size=self.size)


def group_streams(
    parts: Sequence[tuple[LoadGroup, TrainSplit]], sizes: Sequence[int], kind: GroupKind, batching: Batching
) -> list[Stream]:
    """One stream of groups for each size.

    Args:
      parts: a split with what reads its groups, or several that are mixed by weight.
      sizes: windows of a group, or videos.
      batching: its `place` is that of the first size; the others follow.

    Raises ValueError for queries that do not fit the store or the prompt, or give too few groups.
    """
    longest = kind.longest_answer(max(sizes))
    parts = [(load, split.fitting(load.prompts, *longest)) for load, split in parts]
    streams = []
    for number, size in enumerate(sizes):
        rows = []
        for load, split in parts:
            drawer = make_group_drawer(load, split.queries, size, kind, split.negatives)
            if len(drawer) < batching.batch_size:
                raise ValueError(
                    f"{len(split.queries)} queries give {len(drawer)} groups of {size} {kind.of} (skipped: "
                    f"{dict(drawer.skipped)}); expected at least a batch of {batching.batch_size}. Use more or longer "
                    "videos, or a smaller batch"
                )
            rows.append(Rows(drawer, load, split.weight))
        streams.append(make_stream(rows, dataclasses.replace(batching, place=batching.place + number)))
    if streams and streams[-1].skipped:
        logging.warning("some queries give no groups: %s", streams[-1].skipped)
    return streams


def make_group_drawer(
    load: LoadGroup, queries: Sequence[Query], size: int, kind: GroupKind, negatives: Negatives | None = None
) -> GroupDrawer | VideoGroupDrawer:
    """Draws groups of one size; `negatives` is by default at random."""
    durations = load.store.durations
    if kind.of == "videos":
        return VideoGroupDrawer(queries, durations, size=size)
    negatives = negatives or Random(load.hierarchy, durations)
    return GroupDrawer(queries, load.hierarchy, durations, size=size, kind=kind, negatives=negatives)
