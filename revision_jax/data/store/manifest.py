"""`manifest.json`: what a data set directory holds, which encoder made it, where each video lies. docs/data.md."""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from revision_jax.text import parse_json, read_text

MANIFEST = "manifest.json"
FORMAT = 1
DTYPES = ("float16", "float32")


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """One video in a store.

    num_frames: stored frames N. duration_s: length in seconds. first_record: number of its first chunk among
    all records of the shards, in order. sha256: of its features' bytes, [N, D] in row-major order.
    """

    num_frames: int
    duration_s: float
    first_record: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Shard:
    """One ArrayRecord file: its path in the data set directory, its records and its size."""

    path: str
    records: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a store holds and which encoder made it.

    fps: stored frames a second. width: D. chunk_frames: frames a record. source: how the data set was made.
    queries_sha256: of `queries.jsonl` as it was made; "" where an older version made it.
    """

    encoder: str
    encoder_sha256: str
    fps: float
    width: int
    dtype: str
    chunk_frames: int
    shards: tuple[Shard, ...]
    videos: dict[str, VideoInfo]
    source: dict = dataclasses.field(default_factory=dict)
    queries_sha256: str = ""

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ValueError(f"manifest: dtype is {self.dtype!r}; expected one of {DTYPES}")
        for field in ("fps", "width", "chunk_frames"):
            if not getattr(self, field) > 0:
                raise ValueError(f"manifest: {field} is {getattr(self, field)!r}; expected > 0")
        if not self.videos:
            raise ValueError("manifest: lists no videos; expected at least one")
        for video_id, info in self.videos.items():
            if not 0 < info.duration_s < math.inf:
                raise ValueError(f"manifest: video {video_id!r} lasts {info.duration_s} s; expected a time > 0")
        for shard in self.shards:
            path = pathlib.PurePosixPath(shard.path)
            if path.is_absolute() or ".." in path.parts or "\0" in shard.path:
                raise ValueError(f"manifest: shard {shard.path!r} lies elsewhere; expected a path within the data set")

    def chunks(self, video_id: str) -> int:
        """Number of records of a video (the last one is padded with zeros)."""
        return -(-self.videos[video_id].num_frames // self.chunk_frames)

    def save(self, directory: str | os.PathLike) -> None:
        """Writes `manifest.json`, whole or not at all: a data set is complete when its manifest is there."""
        path = pathlib.Path(directory) / MANIFEST
        partial = path.with_name(path.name + ".tmp")
        partial.write_text(json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1) + "\n")
        os.replace(partial, path)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> "Manifest":
        """Reads `manifest.json`; errors name the file."""
        path = pathlib.Path(directory) / MANIFEST
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no manifest; expected a prepared data set directory (docs/data.md)")
        try:
            fields = parse_json(read_text(path))
            if (found := fields.pop("format", None)) != FORMAT:
                raise ValueError(f"format is {found!r}, this program reads {FORMAT}; prepare the data set again")
            fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
            fields["videos"] = {name: VideoInfo(**info) for name, info in fields["videos"].items()}
            _check_kinds(cls, fields)
            for part in (*fields["shards"], *fields["videos"].values()):
                _check_kinds(type(part), vars(part))
            if not fields["shards"]:
                raise ValueError("manifest: shards are none; expected at least one")
            return cls(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: {error}") from error


def _check_kinds(kind: type, fields: Mapping[str, Any]) -> None:
    """Raises ValueError for a value that JSON has of another kind than the field's."""
    for name, (kinds, words) in _KINDS[kind].items():
        value = fields.get(name, "")
        if type(value) not in kinds or (int in kinds and not 0 <= value < 2**48):
            raise ValueError(f"{kind.__name__}: {name} is {value!r:.80}; expected {words}")


_WORDS = {int: ((int,), "a whole number"), float: ((int, float), "a number"), str: ((str,), "text")}
_KINDS = {
    kind: {field.name: _WORDS[field.type] for field in dataclasses.fields(kind) if field.type in _WORDS}
    for kind in (Manifest, Shard, VideoInfo)
}
