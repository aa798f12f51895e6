"""The kinds of batches that stages train on: what they are read from, their shapes, and how long they are.

Letters: B batch, n windows of a group, F frames a window, D feature width, Q query tokens, T text tokens, G questions a
window.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.data.annotations.queries import Query
from revision_jax.data.annotations.table import QueryTable, SentencesById
from revision_jax.data.batches.captions import Captions, caption_stream
from revision_jax.data.batches.clips import ClipKind, clip_stream
from revision_jax.data.batches.groups import GroupKind, group_streams
from revision_jax.data.batches.load_group import LoadGroup
from revision_jax.data.batches.presence import presence_stream
from revision_jax.data.batches.query_tokens import QueryTokens, StoredQueryTokens, check_same_source
from revision_jax.data.batches.streams import Batching, Stream
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.data.builders.annotated import QUERY_TOKENS
from revision_jax.data.builders.base import QUERIES
from revision_jax.data.store.features import MANIFEST, FeatureStore
from revision_jax.parallel.mesh import batch_sharding, host_shard
from revision_jax.prompts import PromptEncoder
from revision_jax.runs.base import make_hierarchy, make_text_extractor
from revision_jax.runs.splits import open_captions, open_split, open_train

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class Source:
    """A split that batches are made from; each part is opened when a kind of batch asks for it.

    Attributes:
      directory: of the split.
      width: `D` of the adapter.
      split: "train", or "val" for validation: its own queries alone, random negatives, one epoch.
    """

    config: ConfigDict
    prompts: PromptEncoder
    mesh: Mesh
    directory: Path
    width: int
    split: str = "train"

    @functools.cached_property
    def data(self) -> list[TrainSplit]:
        """The split, and for training those that are mixed with it."""
        if self.split == "train":
            return open_train(self.config, self.directory, self.width)
        drop = self.config.data.faults == "drop"
        return [TrainSplit(*open_split(self.config, self.directory, self.width), drop_long=drop)]

    @functools.cached_property
    def captions(self) -> Captions:
        return open_captions(self.config, self.directory, self.split, self.width)

    @functools.cached_property
    def loaders(self) -> list[tuple[LoadGroup, TrainSplit]]:
        """Each data set with what reads groups of its windows."""
        load = functools.partial(make_loader, self.config, prompts=self.prompts)
        return [(load(own.store, own.queries), own) for own in self.data]

    def batching(self, size: int, place: int, places: int) -> Batching:
        """How the stream at a place among so many becomes batches of `size` rows, of which this host reads its part."""
        epochs = None if self.split == "train" else 1
        return Batching(size, self.config.seed, epochs, host_shard(self.mesh, size), place, places)

    def files(self, kinds: Iterable["BatchKind"]) -> list[Path]:
        """The files that the content of what was read is known by."""
        if CAPTIONS in kinds:
            return list(self.captions.files)
        return [own.store.path / name for own in self.data for name in (MANIFEST, QUERIES)]


def make_loader(config: ConfigDict, store: FeatureStore, queries: Iterable[Query], prompts: PromptEncoder) -> LoadGroup:
    """Reads groups of a split's windows; the sentences' token features are the data set's own, or encoded as needed.

    Raises:
      ValueError: the data set's own are not those of all its sentences, or not what `base.encoder` makes of them.
    """
    table, extractor = QueryTable.of(queries), make_text_extractor(config)
    if (store.path / QUERY_TOKENS).exists():
        stored = FeatureStore(store.path / QUERY_TOKENS)
        tokens = StoredQueryTokens(stored, table.ids, config.prompt.query_tokens)
        check_same_source(tokens, extractor, table)
    else:
        tokens = QueryTokens(extractor, table.sentences, config.prompt.query_tokens)
    return LoadGroup(store, make_hierarchy(config), prompts, SentencesById(table), tokens)


def frames_see_query(config: ConfigDict) -> bool:
    """Whether the tokens of a dense window have seen the query: in one layout of variant U."""
    return config.model.layout == "clip_adapter"


def are_whole(config: ConfigDict) -> bool:
    """Whether the data set has short videos, each of them one window."""
    return config.data.groups == "videos"


def group_rows(config: ConfigDict) -> int:
    """Groups of a batch, over all devices."""
    return config.train.group_batch_size or config.train.batch_size


class BatchKind(Protocol):
    """One kind of batch."""

    def streams(self, source: Source, place: int, places: int) -> list[Stream]:
        """Its streams, which take the places from `place` on among so many."""
        ...

    def count(self, config: ConfigDict) -> int:
        """How many streams it has."""
        ...

    def rows(self, config: ConfigDict) -> int:
        """Rows of a batch, over all devices."""
        ...

    def shapes(self, config: ConfigDict, mesh: Mesh, width: int) -> Mapping[str, Shapes]:
        """Name -> what a step gets, over all devices."""
        ...

    def video_tokens(self, config: ConfigDict) -> int:
        """Video tokens of its longest sequence."""
        ...


class CaptionBatches:
    """Single frames, each with its caption."""

    def streams(self, source: Source, place: int, places: int) -> list[Stream]:
        return [
            caption_stream(source.captions, source.prompts, source.batching(self.rows(source.config), place, places))
        ]

    def count(self, config: ConfigDict) -> int:
        return 1

    def rows(self, config: ConfigDict) -> int:
        return config.train.batch_size

    def shapes(self, config: ConfigDict, mesh: Mesh, width: int) -> Mapping[str, Shapes]:
        return {
            "frames": _text(config, mesh, self.rows(config))
            | _array(mesh, video=((self.rows(config), 1, width), jnp.float16))
        }

    def video_tokens(self, config: ConfigDict) -> int:
        return 1


def clip_kind(config: ConfigDict, questions: int = 1) -> ClipKind:
    """Which windows a config draws, with so many questions about each."""
    data = config.data
    return ClipKind(
        data.neg_factor, data.near_miss_fraction, questions, are_whole(config), data.occurrences == "shared"
    )


class WindowBatches:
    """Dense windows, positive and contrastive, with one question or several."""

    def streams(self, source: Source, place: int, places: int) -> list[Stream]:
        data = source.config.data
        kind = clip_kind(source.config, data.questions_per_window)
        batching = source.batching(self.rows(source.config), place, places)
        seen = [load.query_tokens for load, _ in source.loaders] if frames_see_query(source.config) else ()
        stream = clip_stream(source.data, make_hierarchy(source.config), source.prompts, kind, batching, seen)
        return [stream]

    def count(self, config: ConfigDict) -> int:
        return 1

    def rows(self, config: ConfigDict) -> int:
        return config.train.batch_size

    def shapes(self, config: ConfigDict, mesh: Mesh, width: int) -> Mapping[str, Shapes]:
        rows = self.rows(config)
        video = (rows, config.hierarchy.num_frames, width)
        seen = _query(config, mesh, width, rows) if frames_see_query(config) else {}
        text = _text(config, mesh, rows, config.data.questions_per_window)
        return {"windows": text | _array(mesh, video=(video, jnp.float16)) | seen}

    def video_tokens(self, config: ConfigDict) -> int:
        return config.hierarchy.num_frames


class PresenceBatches:
    """Single windows as one sparse token each, with the question whether the event happens there."""

    def streams(self, source: Source, place: int, places: int) -> list[Stream]:
        kind = clip_kind(source.config)
        return [presence_stream(source.loaders, kind, source.batching(self.rows(source.config), place, places))]

    def count(self, config: ConfigDict) -> int:
        return 1

    def rows(self, config: ConfigDict) -> int:
        return config.train.batch_size

    def shapes(self, config: ConfigDict, mesh: Mesh, width: int) -> Mapping[str, Shapes]:
        return {"windows": _group(config, mesh, width, (self.rows(config), 1))}

    def video_tokens(self, config: ConfigDict) -> int:
        return 1


class GroupBatches:
    """Groups of windows as one sparse token each, their sizes in turn, with the question where the event is."""

    def streams(self, source: Source, place: int, places: int) -> list[Stream]:
        data = source.config.data
        kind = GroupKind(data.groups, data.group_copies, data.group_near_misses)
        return group_streams(
            source.loaders,
            source.config.hierarchy.levels,
            kind,
            source.batching(self.rows(source.config), place, places),
        )

    def count(self, config: ConfigDict) -> int:
        return len(config.hierarchy.levels)

    def rows(self, config: ConfigDict) -> int:
        return group_rows(config)

    def shapes(self, config: ConfigDict, mesh: Mesh, width: int) -> Mapping[str, Shapes]:
        rows = self.rows(config)
        return {f"groups of {size}": _group(config, mesh, width, (rows, size)) for size in config.hierarchy.levels}

    def video_tokens(self, config: ConfigDict) -> int:
        return max(config.hierarchy.levels)


CAPTIONS, WINDOWS, PRESENCE, GROUPS = CaptionBatches(), WindowBatches(), PresenceBatches(), GroupBatches()


def streams_of(kinds: Sequence[BatchKind], source: Source) -> list[list[Stream]]:
    """The streams of all kinds, each at its place among them."""
    counts = [kind.count(source.config) for kind in kinds]
    return [kind.streams(source, sum(counts[:i]), sum(counts)) for i, kind in enumerate(kinds)]


def _array(mesh: Mesh, **arrays: tuple[tuple[int, ...], Any]) -> dict[str, jax.ShapeDtypeStruct]:
    place = batch_sharding(mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=place) for name, (shape, dtype) in arrays.items()}


def _text(config: ConfigDict, mesh: Mesh, rows: int, questions: int = 1) -> dict[str, jax.ShapeDtypeStruct]:
    """Tokens and loss mask `[B, (G,) T]`."""
    shape = (rows, *((questions,) if questions > 1 else ()), config.prompt.max_text_tokens)
    return _array(mesh, tokens=(shape, jnp.int32), loss_mask=(shape, jnp.bool_))


def _group(config: ConfigDict, mesh: Mesh, width: int, size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
    """Of `size` = (rows, windows of each)."""
    video = _array(mesh, video=((*size, config.hierarchy.num_frames, width), jnp.float16))
    return _text(config, mesh, size[0]) | video | _query(config, mesh, width, size[0])


def _query(config: ConfigDict, mesh: Mesh, width: int, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What has seen the query: its token features and their mask."""
    shape = (rows, config.prompt.query_tokens)
    return _array(mesh, query=((*shape, width), jnp.float16), query_mask=(shape, jnp.bool_))
