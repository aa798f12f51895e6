"""Streams of training batches as Grain data sets: deterministic by (seed, index), the same for any number of hosts.

    rows                                          int
    -> shuffle, repeat                            every epoch in another order
    -> drawn at random                            by (seed, global index)
    -> splits mixed                               by weight
    -> batch                                      of what was drawn; its number is the position of every host
    -> shard                                      this host's contiguous rows of each batch
    -> loaded                                     dict of arrays, each window read into its place in the batch
    -> streams in turn -> iterator                read ahead in threads

Letters: B batch, F frames a window, n windows a group, D feature width, Q query tokens, T text tokens, G questions.
"""

from __future__ import annotations  # so that no annotation imports grain

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from revision_jax import lazy

grain = lazy.module("grain")  # slow to import, and a search reads no batch


class Drawer(Protocol):
    """`len(drawer)` rows, each drawn anew every epoch.

    skipped: reason -> number of moments or queries that give no row.
    """

    skipped: Mapping[str, int]

    def __len__(self) -> int: ...

    def draw(self, row: int, rng: np.random.Generator) -> Any:
        """What one row becomes: a tuple of clips of one window, a `Group`, or the number of a caption."""


class Load(Protocol):
    """(record id, drawn) -> dict of arrays.

    If an array `video` of the right shape is given, the features are read into it, and the dict holds it. One that has
    a method `prepare(drawn)` is first told what all rows of a batch are.
    """

    def __call__(self, item: tuple[int, Any], video: np.ndarray | None = None) -> dict[str, np.ndarray]: ...

    def describe(self, drawn: Any) -> str:
        """One line about what was drawn."""


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """The batches of all streams of a run as they are read, and what is known about them.

    batches: dicts of arrays. Of single windows: `video [B, F, D]` in the stored dtype, `tokens [B, T]` int32,
      `loss_mask [B, T]` bool; with G > 1 questions a window, tokens and mask are `[B, G, T]`. Of groups of windows:
      `video [B, n, F, D]`, `query [B, Q, D]` float16, `query_mask [B, Q]` bool, tokens and mask. Of all:
      `record_id [B]` int32, which `describe_record` understands.
    epoch_batches: whole batches in one epoch.
    skipped: reason -> number of moments or queries that give no clips.
    describe_record: record id -> one line about it.
    """

    batches: grain.IterDataset
    epoch_batches: int
    skipped: Mapping[str, int]
    describe_record: Callable[[int], str]


@dataclasses.dataclass(frozen=True)
class Stream:
    """The batches of one kind (clips, groups of one size or captions), not yet read; fields as in `Pipeline`."""

    batches: grain.MapDataset
    epoch_batches: int
    skipped: Mapping[str, int]
    describe_record: Callable[[int], str]


@dataclasses.dataclass(frozen=True)
class Rows:
    """One split's part of a stream; of several, batches hold rows in proportion to the weights."""

    drawer: Drawer
    load: Load
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Batching:
    """How the rows of a stream become batches.

    batch_size: rows of a batch, over all hosts.
    num_epochs: None = without end. A batch may span two epochs; the last incomplete batch is dropped. A mixture ends
      when the first of its splits does.
    shard: (index, count) of this host, which loads its contiguous part of each global batch. The iterator's state is
      the number of global batches, so it means the same for any count.
    place, places: number of the stream among those that will be joined, and how many these are. Each stream draws from
      a seed of its own and has record ids of its own.
    """

    batch_size: int
    seed: int
    num_epochs: int | None = None
    shard: tuple[int, int] = (0, 1)
    place: int = 0
    places: int = 1

    def __post_init__(self):
        index, count = self.shard
        if self.batch_size % count or not 0 <= index < count:
            raise ValueError(
                f"shard {index} of {count}, batch_size {self.batch_size}; expected equal parts, index < count"
            )
        if not 0 <= self.place < self.places:
            raise ValueError(f"place is {self.place} of {self.places} streams; expected place < places")

    @property
    def own_rows(self) -> slice:
        """The rows of a global batch that this host loads."""
        index, count = self.shard
        size = self.batch_size // count
        return slice(index * size, (index + 1) * size)

    def own_seed(self, number: int) -> int:
        """The seed of split `number` of the stream: every stream, and every split of a mixture, draws apart."""
        if not self.place and not number:
            return self.seed
        key = [self.seed, self.place, number] if number else [self.seed, self.place]
        return int(np.random.SeedSequence(key).generate_state(1)[0])


def make_stream(rows: Rows | Sequence[Rows], batching: Batching) -> Stream:
    """Rows shuffled, repeated, drawn, mixed, batched and loaded.

    rows: of one split, or of several to be mixed by weight; an epoch then has as many rows as all of them.
    """
    rows = [rows] if isinstance(rows, Rows) else list(rows)
    drawn = [
        grain.MapDataset.range(len(own.drawer)).seed(batching.own_seed(number)).shuffle().repeat(batching.num_epochs)
        .random_map(own.drawer.draw)
        for number, own in enumerate(rows)
    ]  # fmt: skip
    if len(rows) == 1:
        clips, load = drawn[0], rows[0].load
    else:
        tagged = [clips.map(Tag(number)) for number, clips in enumerate(drawn)]
        clips, load = grain.MapDataset.mix(tagged, [own.weight for own in rows]), LoadMixed([own.load for own in rows])
    identify = lambda number, item: (number * batching.places + batching.place, item)
    batches = clips.map_with_index(identify).batch(batching.batch_size, drop_remainder=True, batch_fn=list)
    skipped = sum((collections.Counter(own.drawer.skipped) for own in rows), collections.Counter())
    epoch_batches = sum(len(own.drawer) for own in rows) // batching.batch_size
    return Stream(batches.map(LoadBatch(load, batching.own_rows)), epoch_batches, dict(skipped), Describe(clips, load))


@dataclasses.dataclass(frozen=True)
class Tag:
    """drawn -> (number of its split, drawn)."""

    number: int

    def __call__(self, drawn: Any) -> tuple[int, Any]:
        return self.number, drawn


@dataclasses.dataclass(frozen=True)
class LoadMixed:
    """(record id, (number of a split, drawn)) -> what that split's `Load` makes of it."""

    loads: Sequence[Load]

    def __call__(self, item: tuple[int, tuple[int, Any]], video: np.ndarray | None = None) -> dict[str, np.ndarray]:
        record_id, (number, drawn) = item
        return self.loads[number]((record_id, drawn), video)

    def prepare(self, tagged: Sequence[tuple[int, Any]]) -> None:
        """Tells each split's own `Load` its rows."""
        for number, load in enumerate(self.loads):
            _prepare(load, [drawn for of, drawn in tagged if of == number])

    def describe(self, tagged: tuple[int, Any]) -> str:
        """As the split's own `Load`."""
        number, drawn = tagged
        return self.loads[number].describe(drawn)


@dataclasses.dataclass(frozen=True)
class LoadBatch:
    """Items of a global batch -> arrays of this host's rows; features are copied once, from the file to their row."""

    load: Load
    mine: slice

    def __call__(self, items: Sequence[tuple[int, Any]]) -> dict[str, np.ndarray]:
        items = items[self.mine]
        _prepare(self.load, [drawn for _, drawn in items])
        first = self.load(items[0])
        video = np.empty((len(items), *first["video"].shape), first["video"].dtype)
        video[0] = first["video"]
        records = [first, *(self.load(item, row) for item, row in zip(items[1:], video[1:], strict=True))]
        stacked = {key: np.stack([record[key] for record in records]) for key in first if key != "video"}
        return {"video": video, **stacked}


def _prepare(load: Load, drawn: Sequence[Any]) -> None:
    """See `Load`."""
    if hasattr(load, "prepare"):
        load.prepare(drawn)


@dataclasses.dataclass(frozen=True)
class Describe:
    """Record id of a stream -> one line."""

    clips: grain.MapDataset
    load: Load

    def __call__(self, record_id: int) -> str:
        return self.load.describe(self.clips[record_id])


def join(kinds: Sequence[Sequence[Stream]], *, read_threads: int, prefetch: int) -> Pipeline:
    """A batch of each kind in turn, and within a kind of each of its streams in turn.

    An epoch has as many batches as one of every kind together; the streams of a kind share its epoch. A kind with fewer
    batches than another, because its data is less or its batches are larger, is seen more often in that time.

    Args:
      kinds: of each kind its streams, all in the order of their places: [[dense], [groups of 48, groups of 16]].
      read_threads, prefetch: threads that load batches, and how many batches they may be ahead.
    """
    in_turn = lambda datasets: grain.MapDataset.mix(datasets) if len(datasets) > 1 else datasets[0]
    batches = in_turn([in_turn([stream.batches for stream in kind]) for kind in kinds])
    describe = [stream.describe_record for kind in kinds for stream in kind]
    skipped = sum((collections.Counter(kind[0].skipped) for kind in kinds), collections.Counter())
    return Pipeline(
        batches.to_iter_dataset(grain.ReadOptions(num_threads=read_threads, prefetch_buffer_size=prefetch)),
        sum(kind[0].epoch_batches for kind in kinds),
        dict(skipped),
        describe[0] if len(describe) == 1 else lambda id_: describe[id_ % len(describe)](id_ // len(describe)),
    )
