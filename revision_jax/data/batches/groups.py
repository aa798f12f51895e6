"""Groups for training: windows that become one sparse token each, with one question about all of them.

    row number -> group at random (sampling.py) -> features, query tokens and text (load_group.py); streams.py makes
    batches of them.

Letters: n windows a group, F frames a window, D feature width, Q query tokens, T text tokens.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.annotations.table import QueryTable
from revision_jax.data.batches import sampling
from revision_jax.data.batches.fitting import NO_ROOM, TOO_LONG, TOO_NEAR, counted, find_fitting
from revision_jax.data.batches.load_group import LoadGroup
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.sampling import Group
from revision_jax.data.batches.strategy import Negatives, guarded
from revision_jax.data.batches.streams import Batching, Rows, Stream, make_stream
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import group_answer, video_answer

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
        fitting = find_fitting(self.guarded, durations, hierarchy.window_s)
        no_room = fitting.fits & ~fitting.room[fitting.moments[:, 0]]
        self.rows = fitting.moments[fitting.fits & ~no_room]
        self.skipped = counted({TOO_LONG: fitting.too_long, TOO_NEAR: fitting.too_near, NO_ROOM: no_room})

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, row: int, rng: np.random.Generator) -> Group:
        number, moment = self.rows[row].tolist()
        query, without = self.guarded.queries[number], self.guarded.of(number)
        duration_s = self.durations[query.video_id]
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
        self.durations, self.size, self.queries = durations, size, QueryTable.of(queries)
        self.video_ids = list(durations)
        self._places = {video_id: place for place, video_id in enumerate(self.video_ids)}
        present = np.flatnonzero(self.queries.moments.counts > 0)
        enough = len(self.video_ids) - self.queries.showing_counts[present] >= size - 1
        self.rows = present[enough].astype(np.int32)
        self.skipped = counted({FEW_VIDEOS: ~enough})

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, row: int, rng: np.random.Generator) -> Group:
        query = self.queries[int(self.rows[row])]
        showing = [self._places[video_id] for video_id in self.queries.videos_showing(query.sentence)]
        others = Without(self.video_ids, sorted(showing))
        return sampling.video_group(query, others, rng, self.durations, size=self.size)


@dataclasses.dataclass(frozen=True)
class Without(Sequence[str]):
    """A list without the items at some places, in ascending order; nothing is copied."""

    items: Sequence[str]
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.items) - len(self.places)

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(f"item {number} of {len(self)}")
        for place in self.places:
            number += place <= number
        return self.items[number]


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
