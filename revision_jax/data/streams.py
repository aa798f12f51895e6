"""Streams of training batches as Grain data sets: deterministic by (seed, index), the same for any number of hosts.

    rows                                          int
    -> shuffle, repeat                            every epoch in another order
    -> drawn at random                            by (seed, global index)
    -> shard                                      every `count`-th from `index` on
    -> loaded                                     dict of arrays
    -> batch                                      a stream: batches of one kind
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
    """(record id, drawn) -> dict of arrays; `describe(drawn)` says in a line what it is."""

    def __call__(self, item: tuple[int, Any]) -> dict[str, np.ndarray]: ...

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


def make_stream(
    drawer: Drawer,
    load: Load,
    batch_size: int,
    seed: int,
    *,
    num_epochs: int | None = None,
    shard: tuple[int, int] = (0, 1),
    place: int = 0,
    places: int = 1,
) -> Stream:
    """Rows shuffled, repeated, drawn, loaded and batched.

    Args:
      batch_size: over all shards.
      num_epochs: None = without end. A batch may span two epochs; the last incomplete one is dropped.
      shard: (index, count) of this host.
      place, places: number of this stream among those that will be joined, and how many there are. Each draws apart,
        and has record ids of its own.
    """
    index, count = shard
    if batch_size % count or not 0 <= index < count:
        raise ValueError(f"shard {index} of {count}, batch_size {batch_size}; expected equal parts, index < count")
    own_seed = seed if place == 0 else int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
    drawn = grain.MapDataset.range(len(drawer)).seed(own_seed).shuffle().repeat(num_epochs).random_map(drawer.draw)
    number = lambda record, item: (record * places + place, item)
    loaded = drawn.map_with_index(number)[index::count].map(load)
    batches = loaded.batch(batch_size // count, drop_remainder=True)
    return Stream(batches, len(drawer) // batch_size, drawer.skipped, Describe(drawn, load))


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
