"""Parts: the finished videos of an unfinished data set, so that a killed run continues with the next video."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import urllib.parse
from collections.abc import Iterator

import numpy as np

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.store.features import first_non_finite
from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.disk import FullDisk, room_in
from revision_jax.text import read_object

LONGEST = 240  # characters of a part's name


class Parts:
    """The folder `parts/`: `ID.npz` for a finished video, `ID.json` for one that cannot be used, with the reason."""

    def __init__(self, directory: pathlib.Path, width: int):
        self.directory, self.width = directory, width

    def done(self, video_id: str, token: str = "") -> bool:
        """Whether a video needs no more work; one that could not be used is tried again when its `token` changed."""
        return self.path(video_id).is_file() or self._gap(video_id).get("token") == token

    def usable(self, video_id: str) -> bool:
        return self.path(video_id).is_file()

    def path(self, video_id: str, suffix: str = ".npz") -> pathlib.Path:
        name = urllib.parse.quote(video_id, safe="")
        if len(name) > LONGEST:  # of a file's name, 255 bytes
            name = f"{name[: LONGEST - 33]}-{hashlib.sha256(video_id.encode()).hexdigest()[:32]}"
        return self.directory / f"{name}{suffix}"

    def save(self, video_id: str, video: VideoFeatures) -> None:
        """Keeps a video's features, whole or not at all; ValueError for a wrong shape or dtype, NaN or infinity."""
        shape = video.features.shape
        if len(shape) != 2 or not shape[0] or shape[1] != self.width or video.features.dtype != np.float16:
            raise ValueError(
                f"video {video_id!r}: features are {video.features.dtype} {list(shape)}; expected float16 "
                f"[N, {self.width}] with at least one frame"
            )
        if (bad := first_non_finite(video.features)) is not None:
            raise ValueError(f"video {video_id!r}: frame {bad} has NaN or infinity in its features; extract it again")
        path = self.path(video_id)
        partial = path.with_suffix(".tmp")
        with explained(path), partial.open("wb") as file:
            np.savez(file, features=video.features, duration_s=video.duration_s)
        os.replace(partial, path)
        self.path(video_id, ".json").unlink(missing_ok=True)

    def save_gap(self, gap: Gap, token: str = "") -> None:
        """Keeps why a video cannot be used."""
        path = self.path(gap.video_id, ".json")
        with explained(path):
            partial = path.with_suffix(".tmp")
            partial.write_text(json.dumps({"token": token, "gap": dataclasses.asdict(gap)}))
        os.replace(partial, path)

    def load(self, video_id: str) -> tuple[np.ndarray, float]:
        """Features `[N, D]` and the length in seconds."""
        with np.load(self.path(video_id), allow_pickle=False) as part:
            return part["features"], float(part["duration_s"])

    def gap(self, video_id: str) -> Gap | None:
        """Why a video cannot be used, or None."""
        found = self._gap(video_id)
        return Gap(**found["gap"]) if found else None

    def _gap(self, video_id: str) -> dict:
        path = self.path(video_id, ".json")
        return read_object(path) if path.is_file() else {}


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
    """Adds to errors of a full or read-only disk how much room is left and what to do."""
    try:
        with room_in(path):
            yield
    except FullDisk:
        raise
    except OSError as error:
        near = next(p for p in path.parents if p.exists())
        free = shutil.disk_usage(near).free / 2**20
        raise OSError(
            error.errno,
            f"{error.strerror}; {free:.0f} MiB are free. Make room: the same command then continues",
            str(path),
        ) from error
