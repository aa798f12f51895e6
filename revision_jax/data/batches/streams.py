"""Streams of training batches as Grain data sets: deterministic by (seed, index), the same for any number of hosts.

    rows                                          int
    -> shuffle, repeat                            every epoch in another order
    -> drawn at random                            by (seed, global index)
    -> data sets mixed                            by weight
    -> batch                                      of what was drawn; its number is the position of every host
    -> shard                                      this host's contiguous rows of each batch
    -> loaded                                     dict of arrays, each window read into its place in the batch
    -> streams in turn -> iterator                read ahead in threads

Letters: B batch, F frames a window, n windows a group, D feature width, Q query tokens, T text tokens, G questions.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np


class Drawer(Protocol):
    """`len(drawer)` rows; `draw(row, rng)` is what one of them becomes; `skipped`: reason -> what gives no row."""

    skipped: Mapping[str, int]

    def __len__(self) -> int: ...

    def draw(self, row: int, rng: np.random.Generator) -> Any: ...


class Load(Protocol):
    """(record id, drawn) -> dict of arrays; `describe(drawn)` says in a line what it is.

    Given `video`, an array of the right shape, the features are read into it, and it is what the dict holds.
    """

    def __call__(self, item: tuple[int, Any], video: np.ndarray | None = None) -> dict[str, np.ndarray]: ...

    def describe(self, drawn: Any) -> str: ...


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Batches and what is known about them.

    batches: data set of dicts. Of single windows: `video [B, F, D]` in the stored dtype, `tokens [B, T]` int32,
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
    """Batches of one kind, not yet read; the fields are those of `Pipeline`."""

    batches: grain.MapDataset
    epoch_batches: int
    skipped: Mapping[str, int]
    describe_record: Callable[[int], str]


@dataclasses.dataclass(frozen=True)
class Rows:
    """One data set's part of a stream; of several, batches hold rows in proportion to the weights."""

    drawer: Drawer
    load: Load
    weight: float = 1.0


def make_stream(
    rows: Rows | Sequence[Rows],
    batch_size: int,
    seed: int,
    *,
    num_epochs: int | None = None,
    shard: tuple[int, int] = (0, 1),
    place: int = 0,
    places: int = 1,
) -> Stream:
    """Rows shuffled, repeated, drawn, mixed, batched and loaded.

    Args:
      rows: of one data set, or of several to be mixed by weight; an epoch then has as many rows as all of them.
      batch_size: over all shards.
      num_epochs: None = without end. A batch may span two epochs; the last incomplete one is dropped. A mixture ends
        when the first of its data sets does.
      shard: (index, count) of this host, which loads its contiguous part of each global batch. The iterator's state is
        the number of global batches: it means the same for any count.
      place, places: number of this stream among those that will be joined, and how many there are. Each draws apart,
        and has record ids of its own.
    """
    rows = [rows] if isinstance(rows, Rows) else list(rows)
    index, count = shard
    if batch_size % count or not 0 <= index < count:
        raise ValueError(f"shard {index} of {count}, batch_size {batch_size}; expected equal parts, index < count")
    drawn = [
        grain.MapDataset.range(len(own.drawer)).seed(_own_seed(seed, place, number)).shuffle().repeat(num_epochs)
        .random_map(own.drawer.draw)
        for number, own in enumerate(rows)
    ]  # fmt: skip
    if len(rows) == 1:
        clips, load = drawn[0], rows[0].load
    else:
        tagged = [clips.map(Tag(number)) for number, clips in enumerate(drawn)]
        clips, load = grain.MapDataset.mix(tagged, [own.weight for own in rows]), LoadMixed([own.load for own in rows])
    number = lambda record, item: (record * places + place, item)
    batches = clips.map_with_index(number).batch(batch_size, drop_remainder=True, batch_fn=list)
    mine = slice(index * (batch_size // count), (index + 1) * (batch_size // count))
    skipped = sum((collections.Counter(own.drawer.skipped) for own in rows), collections.Counter())
    epoch_batches = sum(len(own.drawer) for own in rows) // batch_size
    return Stream(batches.map(LoadBatch(load, mine)), epoch_batches, dict(skipped), Describe(clips, load))


def _own_seed(seed: int, place: int, number: int) -> int:
    """Every stream, and every data set of a mixture, draws apart."""
    key = [seed, place, number] if number else [seed, place] if place else None
    return seed if key is None else int(np.random.SeedSequence(key).generate_state(1)[0])


@dataclasses.dataclass(frozen=True)
class Tag:
    """drawn -> (number of its data set, drawn)."""

    number: int

    def __call__(self, drawn: Any) -> tuple[int, Any]:
        return self.number, drawn


@dataclasses.dataclass(frozen=True)
class LoadMixed:
    """(record id, (number of a data set, drawn)) -> what that data set's `Load` makes of it."""

    loads: Sequence[Load]

    def __call__(self, item: tuple[int, tuple[int, Any]], video: np.ndarray | None = None) -> dict[str, np.ndarray]:
        record_id, (number, drawn) = item
        return self.loads[number]((record_id, drawn), video)

    def describe(self, tagged: tuple[int, Any]) -> str:
        """As the data set's own."""
        number, drawn = tagged
        return self.loads[number].describe(drawn)


@dataclasses.dataclass(frozen=True)
class LoadBatch:
    """Items of a global batch -> arrays of this host's rows; features are copied once, from the file to their row."""

    load: Load
    mine: slice

    def __call__(self, items: Sequence[tuple[int, Any]]) -> dict[str, np.ndarray]:
        items = items[self.mine]
        first = self.load(items[0])
        video = np.empty((len(items), *first["video"].shape), first["video"].dtype)
        video[0] = first["video"]
        records = [first, *(self.load(item, row) for item, row in zip(items[1:], video[1:], strict=True))]
        stacked = {key: np.stack([record[key] for record in records]) for key in first if key != "video"}
        return {"video": video, **stacked}


@dataclasses.dataclass(frozen=True)
class Describe:
    """Record id of a stream -> one line."""

    clips: grain.MapDataset
    load: Load

    def __call__(self, record_id: int) -> str:
        return self.load.describe(self.clips[record_id])


def join(kinds: Sequence[Sequence[Stream]], *, read_threads: int, prefetch: int) -> Pipeline:
    """A batch of each kind in turn, and within a kind of each of its streams in turn.

    An epoch is one of every kind; the streams of a kind share its epoch.

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
