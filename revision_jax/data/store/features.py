"""The feature store: CLIP features of videos on disk, read a few frames at a time.

A data set directory holds `manifest.json` and ArrayRecord shards under `features/` (a TFDS data set). A record is a
chunk of `chunk_frames` frames of one video, uncompressed and alone in its group. A window reads only the chunks that it
touches: through ArrayRecord's reader the first time, which verifies them, and from the mapped file afterwards
(mapped.py). docs/data.md describes every field. Letters: N frames of a video, D feature width.
"""

import bisect
import functools
import hashlib
import os
import pathlib
import resource

import numpy as np
from array_record.python import array_record_module

from revision_jax.data.store.manifest import MANIFEST, Manifest, Shard, VideoInfo
from revision_jax.data.store.mapped import MappedShard


class DamagedError(ValueError):
    """A file of a data set differs from what its manifest says."""


class NotFiniteError(ValueError):
    """Features hold NaN or infinity."""


EXPONENT = {"float16": (np.uint16, 0x7C00), "float32": (np.uint32, 0x7F800000)}


def first_non_finite(features: np.ndarray) -> int | None:
    """The first frame of `features [n, D]`, float16 or float32, that holds a NaN or an infinity, or None."""
    # All bits of the exponent are set: 30 times faster than `isfinite`, which computes in float32.
    kind, bits = EXPONENT[features.dtype.name]
    bad = (np.ascontiguousarray(features).view(kind) & bits) == bits
    return int(bad.any(axis=1).argmax()) if bad.any() else None


def features_sha256(features: np.ndarray) -> str:
    """Checksum of `features [N, D]` as the manifest keeps it."""
    return hashlib.sha256(np.ascontiguousarray(features)).hexdigest()


def allow_open_files(count: int) -> None:
    """Raises this process's limit of open files to `count`, or as far as it may: the usual 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class FeatureStore:
    """Reads features of a data set directory; safe for threads and picklable for worker processes.

    Raises at construction if the manifest or a shard is missing, or a shard was cut short or exchanged;
    at the first read of a chunk if it holds NaN or infinity, or belongs to another video.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.manifest = Manifest.load(self.path)
        self._ends = np.cumsum([shard.records for shard in self.manifest.shards]).tolist()
        self._begins = [0, *self._ends[:-1]]
        self._open()
        self._check_layout()

    @property
    def video_ids(self) -> list[str]:
        return list(self.manifest.videos)

    @functools.cached_property
    def durations(self) -> dict[str, float]:
        """Seconds by video id."""
        return {name: info.duration_s for name, info in self.manifest.videos.items()}

    def check_encoder(self, encoder_sha256: str, fps: float) -> None:
        """Raises ValueError unless the features were made by this encoder at this frame rate."""
        manifest = self.manifest
        if manifest.encoder_sha256 != encoder_sha256 or abs(manifest.fps - fps) > 1e-6:
            raise ValueError(
                f"{self.path}: its features are from encoder {manifest.encoder} "
                f"({manifest.encoder_sha256[:12]}) at {manifest.fps} fps; this run's encoder is "
                f"{encoder_sha256[:12]} at {fps} fps. Extract them again or use the encoder they came from"
            )

    def read(self, video_id: str, frames: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Features of some frames, in the stored dtype; only the chunks that hold them are read.

        Args:
          frames: [...] integers in 0..N-1.
          out: contiguous [..., D] to be filled, of the stored dtype: rows of a batch.

        Returns:
          [..., D]: `out`, or a new array.
        """
        info = self._video(video_id)
        frames = np.asarray(frames)
        flat = frames.reshape(-1)
        if flat.size and (flat.min() < 0 or flat.max() >= info.num_frames):
            raise IndexError(
                f"video {video_id!r} has frames 0..{info.num_frames - 1}; found {flat.min()}..{flat.max()}"
            )
        shape = (*frames.shape, self.manifest.width)
        if out is None:
            out = np.empty(shape, self.manifest.dtype)
        elif out.shape != shape or out.dtype != self.manifest.dtype or not out.flags.c_contiguous:
            raise ValueError(
                f"out is {out.dtype} {list(out.shape)}; expected contiguous {self.manifest.dtype} {list(shape)}"
            )
        rows = out.reshape(-1, self.manifest.width)
        if self._copy_found(video_id, flat, rows):
            return out
        if frames.ndim > 1:
            for some, own in zip(frames, out, strict=True):
                self.read(video_id, some, own)
            return out
        if (flat[1:] >= flat[:-1]).all():
            self._read_sorted(video_id, flat, rows)
        else:
            order = np.argsort(flat, kind="stable")
            ordered = np.empty_like(rows)
            self._read_sorted(video_id, flat[order], ordered)
            rows[order] = ordered
        return out

    def _copy_found(self, video_id: str, frames: np.ndarray, rows: np.ndarray) -> bool:
        """Copies frames from the mapped file, if all their chunks were found there."""
        mapped, offset = self._place(video_id)
        records, inside = np.divmod(frames, self.manifest.chunk_frames)
        records += offset
        if not mapped.found(records).all():
            return False
        mapped.copy(records, inside, rows)
        return True

    def _place(self, video_id: str) -> tuple[MappedShard, int]:
        """A video's shard, and the number of its first record in it."""
        first = self.manifest.videos[video_id].first_record
        shard = self._shard(first)  # a video never spans two shards
        return self._mapped[shard], first - self._begins[shard]

    def _read_sorted(self, video_id: str, frames: np.ndarray, rows: np.ndarray) -> None:
        """Frames in ascending order -> rows of the same number."""
        mapped, offset = self._place(video_id)
        chunk_of, inside = np.divmod(frames, self.manifest.chunk_frames)
        found = mapped.found(offset + chunk_of)
        missing = set(chunk_of[~found].tolist())
        for chunk in np.unique(chunk_of).tolist():
            part = slice(*np.searchsorted(chunk_of, (chunk, chunk + 1)))
            if chunk in missing:
                (data,) = self._chunks(video_id, chunk, chunk + 1)
                mapped.locate(offset + chunk, data.reshape(-1).view(np.uint8))
                np.take(data, inside[part], axis=0, out=rows[part], mode="clip")  # "raise" would copy twice
            else:
                mapped.copy(offset + chunk_of[part], inside[part], rows[part])

    def read_all(self, video_id: str) -> np.ndarray:
        """All features of a video, [N, D] in the stored dtype, checked against the manifest's checksum."""
        info = self._video(video_id)
        chunks = self._chunks(video_id, 0, self.manifest.chunks(video_id))
        features = np.concatenate(list(chunks))[: info.num_frames]
        if features_sha256(features) != info.sha256:
            raise DamagedError(
                f"{self.path}: the features of video {video_id!r} do not match their checksum in {MANIFEST}; "
                "the shard was changed or damaged. Prepare the data set again"
            )
        return features

    def _video(self, video_id: str) -> VideoInfo:
        if video_id not in self.manifest.videos:
            some = ", ".join(self.video_ids[:3])
            raise KeyError(f"{self.path}: no video {video_id!r} among its {len(self.video_ids)} ({some}, ...)")
        return self.manifest.videos[video_id]

    def _chunks(self, video_id: str, start: int, stop: int):
        """Yields chunks start..stop-1 of a video, each [chunk_frames, D]."""
        first = self.manifest.videos[video_id].first_record
        shard = self._shard(first)  # a video never spans two shards
        offset = first - self._begins[shard]
        try:
            records = self._readers[shard].read(offset + start, offset + stop)
        except (RuntimeError, IndexError) as error:
            raise DamagedError(
                f"{self.path / self.manifest.shards[shard].path}: chunks {start}..{stop - 1} of {video_id!r} "
                f"cannot be read ({error}); the shard is damaged. Prepare the data set again"
            ) from error
        for chunk, record in enumerate(records, start):
            yield self._parse(record, video_id, chunk, first + chunk)

    def _parse(self, record: bytes, video_id: str, chunk: int, number: int) -> np.ndarray:
        """One record (a tf.train.Example) -> [chunk_frames, D], checked the first time it is read."""
        fields = self._example.FromString(record).features.feature
        found = fields["video_id"].bytes_list.value[0].decode(), fields["chunk"].int64_list.value[0]
        data = np.frombuffer(fields["features"].bytes_list.value[0], self.manifest.dtype)
        expected = self.manifest.chunk_frames, self.manifest.width
        if found != (video_id, chunk) or data.size != expected[0] * expected[1]:
            raise DamagedError(
                f"{self.path}: record {number} is chunk {found[1]} of {found[0]!r} with {data.size} values; "
                f"expected chunk {chunk} of {video_id!r} with {expected[0]} x {expected[1]}. "
                f"The shards do not belong to {MANIFEST}"
            )
        data = data.reshape(expected)
        if not self._checked[number]:
            if (bad := first_non_finite(data)) is not None:
                frame = chunk * expected[0] + bad
                raise NotFiniteError(
                    f"{self.path}: the features of video {video_id!r} are not finite at frame {frame} "
                    f"({frame / self.manifest.fps:.2f} s). Extract that video again"
                )
            self._checked[number] = True
        return data

    def _open(self) -> None:
        from tensorflow_datasets.proto import tf_example_pb2  # the message alone, TensorFlow is not imported

        self._example = tf_example_pb2.Example
        self._checked = np.zeros(self._ends[-1], bool)
        # Without read-ahead, else every random read would fetch its neighbours too.
        options = "readahead_buffer_size:0,max_parallelism:0"
        self._readers, self._mapped = [], []
        allow_open_files(3 * len(self.manifest.shards) + 256)
        row_bytes = self.manifest.width * np.dtype(self.manifest.dtype).itemsize
        for shard in self.manifest.shards:
            self._check_file(shard)
            reader = array_record_module.ArrayRecordReader(str(self.path / shard.path), options)
            if not reader.ok() or reader.num_records() != shard.records:
                raise DamagedError(
                    f"{self.path / shard.path}: not the ArrayRecord file of {shard.records} records that "
                    f"{MANIFEST} lists; prepare the data set again"
                )
            self._readers.append(reader)
            self._mapped.append(MappedShard(self.path / shard.path, shard.records, row_bytes))

    def _check_file(self, shard: Shard) -> None:
        path = self.path / shard.path
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: shard is missing; {MANIFEST} lists it. Copy or prepare the data set again"
            )
        if (size := path.stat().st_size) != shard.bytes:
            raise DamagedError(
                f"{path}: has {size} bytes, {MANIFEST} says {shard.bytes}; it was cut short or changed. "
                "Copy or prepare the data set again"
            )

    def _check_layout(self) -> None:
        """Each video's chunks follow those of the one before, within one shard, and fill the shards."""
        record = 0
        for video_id, info in self.manifest.videos.items():
            last = record + self.manifest.chunks(video_id) - 1
            if info.first_record != record or info.num_frames < 1 or self._shard(record) != self._shard(last):
                raise ValueError(
                    f"{self.path / MANIFEST}: video {video_id!r} has {info.num_frames} frames from record "
                    f"{info.first_record}; expected >= 1 frame from record {record}, within one shard"
                )
            record = last + 1
        if record != self._ends[-1]:
            raise ValueError(
                f"{self.path / MANIFEST}: its videos fill {record} records, its shards hold {self._ends[-1]}"
            )

    def _shard(self, record: int) -> int:
        return bisect.bisect_right(self._ends, record)

    def __getstate__(self):
        return {"path": self.path}

    def __setstate__(self, state):
        self.__init__(state["path"])
