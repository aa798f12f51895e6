"""The videos that may be asked and shown: those of one folder, and uploads. They are named by keys, never by paths."""

import dataclasses
import logging
import os
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path

from av.error import FFmpegError

from revision_jax.data.video.finding import ENDINGS, find_videos
from revision_jax.data.video.frames import probe
from revision_jax.data.video.opening import opened
from revision_jax.quoting import escaped, quoted
from revision_jax.report.table import clock
from revision_jax.units import MIB

log = logging.getLogger(__name__)


class Refused(ValueError):
    """A video that is not taken or not served; the message says why."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of uploads: bytes and seconds of one, and how many are kept (the oldest go first)."""

    bytes: int
    seconds: float
    kept: int = 20


@dataclasses.dataclass(frozen=True)
class Video:
    """A video by its key, which nobody guesses; `name` is what people see."""

    key: str
    name: str
    path: Path


class Library:
    """Videos by key.

    Args:
      folder: its videos are there for everybody, as they are at the start; None: uploads only.
      uploads: a folder of this program's own, in which uploads come in and are kept.

    Raises:
      ValueError: the folder holds no video.
    """

    def __init__(self, folder: Path | None, uploads: Path, limits: Limits):
        self.limits, self._uploads = limits, uploads
        self._roots = [uploads.resolve()]
        self._shared: dict[str, Video] = {}
        self._own: dict[str, Video] = {}
        self._lock = threading.Lock()
        if folder is not None:
            if not folder.is_dir():
                raise ValueError(f"--videos is {folder}; expected a folder.")
            self._roots.append(folder.resolve())
            for path in map(Path, find_videos([str(folder)])):
                if not self._inside(path):
                    log.warning("%s leads out of %s and is left out", escaped(str(path)), folder)
                    continue
                key = secrets.token_urlsafe(12)
                self._shared[key] = Video(key, escaped(str(path.relative_to(folder))), path)

    def choices(self, own: Sequence[str]) -> list[tuple[str, str]]:
        """(name, key) of the folder's videos and of a person's own uploads, those that are still there."""
        with self._lock:
            mine = [self._own[key] for key in own if key in self._own]
        return [(video.name, video.key) for video in (*mine, *self._shared.values())]

    def find(self, key: str | None) -> Video:
        """The video of a key.

        Raises:
          Refused: there is none, or its file leads out of the folder meanwhile.
        """
        video = self._shared.get(key) or self._own.get(key)
        if video is None or not video.path.is_file() or not self._inside(video.path):
            raise Refused("there is no such video; choose one of the list, or upload it again.")
        return video

    def add(self, upload: str | os.PathLike) -> Video:
        """Takes an uploaded file, moved from where it lies; one that is refused is deleted.

        Raises:
          Refused: too large, or too long; or no upload: that is left alone.
          VideoError: no video.
        """
        upload = Path(upload)
        if not upload.is_file() or not upload.resolve().is_relative_to(self._roots[0]):
            raise Refused("this file was not uploaded; expected an upload.")
        name = escaped(upload.name)
        try:
            self._check(upload, name)
            key = secrets.token_urlsafe(12)
            suffix = upload.suffix.lower()
            video = Video(key, name, self._uploads / f"{key}{suffix if suffix in ENDINGS else ''}")
            os.replace(upload, video.path)
        finally:
            upload.unlink(missing_ok=True)
        with self._lock:
            self._own[key] = video
            while len(self._own) > self.limits.kept:
                self._own.pop(next(iter(self._own))).path.unlink(missing_ok=True)
        return video

    def _check(self, upload: Path, name: str) -> None:
        size = upload.stat().st_size
        if size > self.limits.bytes:
            most = f"{self.limits.bytes / MIB:,.0f} MiB"
            raise Refused(f"{quoted(name)} has {size / MIB:,.1f} MiB; expected at most {most} (--max_upload_mib).")
        probe(upload)  # its first frame
        seconds = _length_s(upload)
        if seconds > self.limits.seconds:
            most = f"{clock(self.limits.seconds)} (--max_minutes)"
            raise Refused(f"{quoted(name)} lasts {clock(seconds)}; expected at most {most}. Upload a part of it.")

    def _inside(self, path: Path) -> bool:
        """Whether a file lies in one of the folders, after all links are followed."""
        return any(path.resolve().is_relative_to(root) for root in self._roots)


def _length_s(path: Path) -> float:
    """Seconds from the first picture to the last, by all packets: what a file says of itself may be wrong."""
    first, last = float("inf"), float("-inf")
    with opened(path) as (container, stream):
        try:
            for packet in container.demux(stream):
                if packet.pts is not None:
                    time_s = float(packet.pts * packet.time_base)
                    first, last = min(first, time_s), max(last, time_s)
        except FFmpegError:
            pass  # damage: told when it is decoded
    return max(0.0, last - first)
