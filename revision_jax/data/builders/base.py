"""What builders share: videos -> resumable parts -> a TFDS data set of feature chunks, manifest, queries.

The features of each video are kept as a part as soon as they are made, so that a killed run continues with
the next video; when all parts are there TFDS packs them into ArrayRecord shards, and the manifest, written
last, says that the data set is complete.
"""

import abc
import contextlib
import fcntl
import functools
import io
import json
import os
import pathlib
import shutil
import urllib.parse
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core import writer as tfds_writer

from revision_jax.data.extraction import Extractor, VideoFeatures
from revision_jax.data.features import (
    MANIFEST,
    Manifest,
    Shard,
    VideoInfo,
    features_sha256,
    first_non_finite,
)
from revision_jax.data.moments import Query, check_queries, save_queries

QUERIES = "queries.jsonl"
CHUNK_FRAMES = 64
SHARD_BYTES = 256 << 20


class _UncompressedWriter(tfds_writer.ExampleWriter):
    """TFDS's writer compresses each record, which halves the speed of random reads and saves nothing here."""

    def write(self, path, examples) -> None:
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _, example in examples:
            writer.write(example)
        writer.close()


class FeatureBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """TFDS builder of one split of a data set of features, in its own directory.

    A subclass says which videos there are, how their features are made, and which queries go with them.
    """

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded. TFDS would look for checksums by `importlib_resources`, not required by it.
    url_infos: ClassVar[dict] = {}

    def __init__(self, directory: str | os.PathLike, split: str, extractor: Extractor):
        self.directory = pathlib.Path(directory)
        self.split = split
        self.extractor = extractor
        self._parts_dir = self.directory / "parts"
        super().__init__(data_dir=self.directory / "features", file_format="array_record")

    @abc.abstractmethod
    def video_ids(self) -> list[str]:
        """Every video of the split, in the order in which they are stored."""

    @abc.abstractmethod
    def extract(self, video_ids: list[str]) -> Iterator[tuple[str, VideoFeatures]]:
        """Makes features of some videos, in any order."""

    @abc.abstractmethod
    def queries(self) -> list[Query]:
        """The annotations of the split."""

    @abc.abstractmethod
    def source(self) -> dict:
        """What decides the content, for the manifest: a directory made from anything else is refused."""

    def prepare(self, on_video: Callable[[int, int], None] = lambda done, total: None) -> pathlib.Path:
        """Makes what is missing and returns the directory; calls `on_video(done, total)` after each video.

        Raises ValueError if the directory holds a data set made from something else.
        """
        if not self._is_complete():  # a complete one may lie on a read-only disk
            self.directory.mkdir(parents=True, exist_ok=True)
            with (self.directory / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not self._is_complete():  # another run may have made it meanwhile
                    self._make(on_video)
        self._check_same(json.loads((self.directory / MANIFEST).read_text()))
        return self.directory

    def _is_complete(self) -> bool:
        return (self.directory / MANIFEST).is_file()

    def _make(self, on_video: Callable[[int, int], None]) -> None:
        self._claim_parts()
        video_ids = self.video_ids()
        missing = [video_id for video_id in video_ids if not self._part(video_id).is_file()]
        done = len(video_ids) - len(missing)
        on_video(done, len(video_ids))
        for video_id, video in self.extract(missing):
            self._save_part(video_id, video)
            done += 1
            on_video(done, len(video_ids))
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints advice about downloads
            self.download_and_prepare()
        features = self.directory / "features"
        for leftover in [*features.glob("downloads"), *features.glob("*/incomplete*")]:
            shutil.rmtree(leftover)
        manifest = self._manifest()
        durations = {name: info.duration_s for name, info in manifest.videos.items()}
        save_queries(self.directory / QUERIES, check_queries(self.queries(), durations))
        manifest.save(self.directory)
        shutil.rmtree(self._parts_dir)

    def _claim_parts(self) -> None:
        """Says in `parts/` what they are made from; raises if those of a killed run are made from others."""
        self._parts_dir.mkdir(exist_ok=True)
        path = self._parts_dir / "source.json"
        if path.is_file():
            self._check_same(json.loads(path.read_text()))
        else:
            partial = path.with_suffix(".tmp")
            partial.write_text(json.dumps(self._identity()))
            os.replace(partial, path)

    def _identity(self) -> dict:
        made_by = {"encoder_sha256": self.extractor.fingerprint, "fps": self.extractor.fps}
        return {**made_by, "source": self.source()}

    def _check_same(self, found: dict) -> None:
        asked = self._identity()
        found = {key: found.get(key) for key in asked}
        if found != asked:
            raise ValueError(f"{self.directory}: was made from {found}; asked for is {asked}. Use another directory")

    def _part(self, video_id: str) -> pathlib.Path:
        return self._parts_dir / f"{urllib.parse.quote(video_id, safe='')}.npz"

    def _save_part(self, video_id: str, video: VideoFeatures) -> None:
        shape, width = video.features.shape, self.extractor.width
        if len(shape) != 2 or not shape[0] or shape[1] != width or video.features.dtype != np.float16:
            raise ValueError(
                f"video {video_id!r}: features are {video.features.dtype} {list(shape)}; expected float16 "
                f"[N, {width}] with at least one frame, from {self.extractor.name}"
            )
        if (bad := first_non_finite(video.features)) is not None:
            raise ValueError(f"video {video_id!r}: frame {bad} has NaN or infinity in its features; extract it again")
        path = self._part(video_id)
        partial = path.with_suffix(".tmp")
        with partial.open("wb") as file:
            np.savez(file, features=video.features, duration_s=video.duration_s)
        os.replace(partial, path)

    def _load_part(self, video_id: str) -> tuple[np.ndarray, float]:
        with np.load(self._part(video_id), allow_pickle=False) as part:
            return part["features"], float(part["duration_s"])

    # What TFDS asks of a builder.

    def _info(self) -> tfds.core.DatasetInfo:
        chunk = tfds.features.Tensor(
            shape=(CHUNK_FRAMES, self.extractor.width),
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
        """Videos by shard: as many as fit into `SHARD_BYTES`, never a part of one."""
        groups: list[list[str]] = []
        room = 0
        for video_id in self.video_ids():
            size = self._part(video_id).stat().st_size
            if not groups or size > room:
                groups.append([])
                room = SHARD_BYTES
            groups[-1].append(video_id)
            room -= size
        return groups

    def _examples(self, video_ids: list[str]):
        for video_id in video_ids:
            features, _ = self._load_part(video_id)
            padding = -len(features) % CHUNK_FRAMES
            chunks = np.pad(features, ((0, padding), (0, 0))).reshape(-1, CHUNK_FRAMES, features.shape[1])
            for number, chunk in enumerate(chunks):
                yield f"{video_id}/{number}", {"video_id": video_id, "chunk": number, "features": chunk}

    def _manifest(self) -> Manifest:
        """Describes the shards that were written from the parts."""
        split = self.info.splits[self.split]
        shards, videos, record = [], {}, 0
        for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
            path = pathlib.Path(path)
            shards.append(Shard(path.relative_to(self.directory).as_posix(), length, path.stat().st_size))
        for video_id in self.video_ids():
            features, duration_s = self._load_part(video_id)
            videos[video_id] = VideoInfo(len(features), duration_s, record, features_sha256(features))
            record += -(-len(features) // CHUNK_FRAMES)
        return Manifest(
            encoder=self.extractor.name,
            encoder_sha256=self.extractor.fingerprint,
            fps=self.extractor.fps,
            width=self.extractor.width,
            dtype="float16",
            chunk_frames=CHUNK_FRAMES,
            shards=tuple(shards),
            videos=videos,
            source=self.source(),
        )
