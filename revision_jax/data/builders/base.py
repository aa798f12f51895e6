"""The base class of all builders: videos -> resumable parts -> a TFDS data set of feature chunks, manifest, queries.

The features of each video are kept as a part as soon as they are made, so that a killed run continues with
the next video; when all parts are there TFDS packs them into ArrayRecord shards, and the data set is
complete when the manifest, written last, is there.
"""

import abc
import contextlib
import dataclasses
import errno
import fcntl
import functools
import io
import json
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import writer as tfds_writer
from tensorflow_datasets.proto import tf_example_pb2

from revision_jax.data.annotations.gaps import GAPS, Gap, in_order, save_gaps, summarise
from revision_jax.data.annotations.queries import Query, save_queries
from revision_jax.data.builders.parts import Parts, explained
from revision_jax.data.store.features import features_sha256
from revision_jax.data.store.locations import save_locations
from revision_jax.data.store.manifest import MANIFEST, Manifest, Shard, VideoInfo
from revision_jax.data.video.extraction import Encoder, VideoFeatures
from revision_jax.disk import room_in
from revision_jax.text import read_object

QUERIES = "queries.jsonl"
SHARDS = "shards"
CHUNK_FRAMES = 64
SHARD_BYTES = 256 << 20
MAX_FILES = 256  # of a data set as a whole: a reader holds all of them open
log = logging.getLogger(__name__)


class _UncompressedWriter(tfds_writer.ExampleWriter):
    """TFDS's writer compresses each record, which halves the speed of random reads and saves nothing here. It also
    leaves the order of a record's fields to chance; here equal features give equal files."""

    def write(self, path: os.PathLike, examples: Iterable[tuple[Any, bytes]]) -> None:
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        count = 0
        for _, example in examples:
            writer.write(tf_example_pb2.Example.FromString(example).SerializeToString(deterministic=True))
            count += 1
        writer.close()
        reader = array_record_module.ArrayRecordReader(os.fspath(path))  # a full disk may go unnoticed until here
        if not reader.ok() or reader.num_records() != count:
            raise OSError(errno.EIO, f"{count} records were written, they cannot be read again", os.fspath(path))


class FeatureBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """TFDS builder of one split of a data set of features, in its own directory.

    A subclass says which videos there are, how their features are made, and which queries go with them.

    Args:
      directory: of the split.
      encoder: an `extraction.Extractor` that makes the features, or the `Encoder` that somebody else made them with.
      shard: (index, count): with count > 1 this builder makes every `count`-th part of the videos only, under
        `directory/shards`; `merge.merge_shards` joins them.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. TFDS would look for checksums by `importlib_resources`, not required by it.
    url_infos: ClassVar[dict] = {}
    chunk_frames: ClassVar[int] = CHUNK_FRAMES  # of a record

    def __init__(self, directory: str | os.PathLike, split: str, encoder: Encoder, *, shard: tuple[int, int] = (0, 1)):
        index, count = shard
        if not 0 <= index < count:
            raise ValueError(f"shard {index} of {count}; expected an index from 0 to {count - 1}")
        whole = pathlib.Path(directory)
        self.directory = whole if count == 1 else whole / SHARDS / shard_name(index, count)
        self.split, self.encoder, self.shard = split, encoder, shard
        self._parts = Parts(self.directory / "parts", encoder.width)
        super().__init__(data_dir=self.directory / "features", file_format="array_record")

    @abc.abstractmethod
    def video_ids(self) -> list[str]:
        """Every video of the split, in the order in which they are stored; the same in every shard."""

    @abc.abstractmethod
    def extract(self, video_ids: list[str]) -> Iterator[tuple[str, VideoFeatures | Gap]]:
        """Makes features of some videos, in any order, or says why there are none."""

    @abc.abstractmethod
    def annotate(self, durations: Mapping[str, float]) -> tuple[list[Query], list[Gap]]:
        """The queries about the videos of `durations` (seconds by id), and what is wrong with others."""

    @abc.abstractmethod
    def source(self) -> dict:
        """All that decides the content, for the manifest; a directory that was made from anything else is refused."""

    def video_files(self) -> Mapping[str, os.PathLike]:
        """Video files by id, for pictures in reports; none where they lie in the data set itself or are not known."""
        return {}

    def token(self, video_id: str) -> str:
        """A text that changes when a video that could not be used should be tried again."""
        del video_id
        return ""

    def prepare(self, on_video: Callable[[int, int], None] = lambda done, total: None) -> pathlib.Path:
        """Makes what is missing and returns the directory; calls `on_video(done, total)` after each video.

        Raises ValueError if the directory holds a data set made from something else, or no video can be used.
        """
        if not self._is_complete():  # a complete one may lie on a read-only disk
            with room_in(self.directory):
                self._make_alone(on_video)
        self._check_same(read_object(self.directory / MANIFEST))
        return self.directory

    def _make_alone(self, on_video: Callable[[int, int], None]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("%s is being made by another process; waits for it", self.directory)
                fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._is_complete():  # another run may have made it meanwhile
                self._make(on_video)

    def _is_complete(self) -> bool:
        return (self.directory / MANIFEST).is_file()

    def _own_ids(self) -> list[str]:
        """The videos of this shard: a contiguous piece, so that merged shards are in the order of a single run."""
        (index, count), video_ids = self.shard, self.video_ids()
        own = video_ids[index * len(video_ids) // count : (index + 1) * len(video_ids) // count]
        if not own:
            raise ValueError(f"{self.directory}: shard {index} of {count} has none of the {len(video_ids)} videos")
        return own

    def _stored_ids(self) -> list[str]:
        return [video_id for video_id in self._own_ids() if self._parts.usable(video_id)]

    def _make(self, on_video: Callable[[int, int], None]) -> None:
        self._claim_parts()
        video_ids = self._own_ids()
        missing = [video_id for video_id in video_ids if not self._parts.done(video_id, self.token(video_id))]
        done = len(video_ids) - len(missing)
        on_video(done, len(video_ids))
        for video_id, video in self.extract(missing):
            if isinstance(video, Gap):
                self._parts.save_gap(video, self.token(video_id))
            else:
                self._parts.save(video_id, video)
            done += 1
            on_video(done, len(video_ids))
        gaps = [gap for video_id in video_ids if (gap := self._parts.gap(video_id))]
        if not self._stored_ids():
            raise ValueError(
                f"{self.directory}: none of {len(video_ids)} videos can be used: {summarise(gaps)}; {gaps[0]}"
            )
        self._pack()
        manifest = self._manifest()
        durations = {name: info.duration_s for name, info in manifest.videos.items()}
        with explained(self.directory / QUERIES):
            queries, faults = self.annotate(durations)
            written = save_queries(self.directory / QUERIES, by_video(queries, durations))
            save_gaps(self.directory / GAPS, in_order([*gaps, *faults]))
            if files := self.video_files():
                save_locations(self.directory, files)
            dataclasses.replace(manifest, queries_sha256=written).save(self.directory)
        shutil.rmtree(self._parts.directory)

    def _pack(self) -> None:
        """Writes the parts into ArrayRecord shards."""
        features = self.directory / "features"
        with explained(features), contextlib.redirect_stdout(io.StringIO()):  # TFDS prints advice about downloads
            self.download_and_prepare()
        for leftover in [*features.glob("downloads"), *features.glob("*/incomplete*")]:
            shutil.rmtree(leftover)

    def _claim_parts(self) -> None:
        """Says in `parts/` what they are made from; raises if those of a killed run are made from others."""
        folder = self._parts.directory
        folder.mkdir(exist_ok=True)
        path = folder / "source.json"
        if path.is_file():
            self._check_same(read_object(path))
        else:
            partial = path.with_suffix(".tmp")
            partial.write_text(json.dumps(self._identity()))
            os.replace(partial, path)

    def _source(self) -> dict:
        index, count = self.shard
        return self.source() | ({"shard": [index, count]} if count > 1 else {})

    def _identity(self) -> dict:
        made_by = {"encoder_sha256": self.encoder.fingerprint, "fps": self.encoder.fps}
        return {**made_by, "source": self._source()}

    def _check_same(self, found: dict) -> None:
        asked = self._identity()
        found = {key: found.get(key) for key in asked}
        if found != asked:
            raise ValueError(f"{self.directory}: was made from {found}; asked for is {asked}. Use another directory")

    # What TFDS asks of a builder.

    def _info(self) -> tfds.core.DatasetInfo:
        chunk = tfds.features.Tensor(
            shape=(self.chunk_frames, self.encoder.width),
            dtype=np.float16,
            encoding=tfds.features.Encoding.BYTES,
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="CLIP features in chunks of fixed length, the last of a video padded with zeros.",
            features=tfds.features.FeaturesDict(
                {"video_id": tfds.features.Text(), "chunk": np.int32, "features": chunk}
            ),
            disable_shuffling=True,
        )

    def _example_writer(self):
        return _UncompressedWriter(file_format=self.info.file_format)

    def _shard_iterators_per_split(self, dl_manager):
        del dl_manager  # nothing is downloaded
        return {self.split: [functools.partial(self._examples, group) for group in self._groups()]}

    def _groups(self) -> list[list[str]]:
        """Videos by file: as many as fit into `SHARD_BYTES`, or more if there would be too many files."""
        groups: list[list[str]] = []
        stored = sum(self._parts.path(video_id).stat().st_size for video_id in self._stored_ids())
        full, room = max(SHARD_BYTES, stored * self.shard[1] // MAX_FILES), 0
        for video_id in self._stored_ids():
            size = self._parts.path(video_id).stat().st_size
            if not groups or size > room:
                groups.append([])
                room = full
            groups[-1].append(video_id)
            room -= size
        return groups

    def _examples(self, video_ids: list[str]):
        for video_id in video_ids:
            features, _ = self._parts.load(video_id)
            padding = -len(features) % self.chunk_frames
            chunks = np.pad(features, ((0, padding), (0, 0))).reshape(-1, self.chunk_frames, features.shape[1])
            for number, chunk in enumerate(chunks):
                yield f"{video_id}/{number}", {"video_id": video_id, "chunk": number, "features": chunk}

    def _manifest(self) -> Manifest:
        """Describes the shards that were written from the parts."""
        split = self.info.splits[self.split]
        shards, videos, record = [], {}, 0
        for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
            path = pathlib.Path(path)
            shards.append(Shard(path.relative_to(self.directory).as_posix(), length, path.stat().st_size))
        for video_id in self._stored_ids():
            features, duration_s = self._parts.load(video_id)
            videos[video_id] = VideoInfo(len(features), duration_s, record, features_sha256(features))
            record += -(-len(features) // self.chunk_frames)
        return Manifest(
            encoder=self.encoder.name,
            encoder_sha256=self.encoder.fingerprint,
            fps=self.encoder.fps,
            width=self.encoder.width,
            dtype="float16",
            chunk_frames=self.chunk_frames,
            shards=tuple(shards),
            videos=videos,
            source=self._source(),
        )


def shard_name(index: int, count: int) -> str:
    """Folder of a shard under `shards/`."""
    return f"{index:05d}-of-{count:05d}"


def by_video(queries: list[Query], durations: Mapping[str, float]) -> list[Query]:
    """Queries in the order of the stored videos, else as they came: the same however many shards there were."""
    place = {video_id: number for number, video_id in enumerate(durations)}
    return sorted(queries, key=lambda query: place[query.video_id])
