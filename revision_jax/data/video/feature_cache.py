"""Features of videos that were asked about before, kept so that a second question reads no video again.

An entry belongs to a file's content, an encoder and a frame rate: a file that was moved or copied is found again, one
that was changed is not. So that content need not be read each time, a file's hash is kept by its path, size and time.
"""

import contextlib
import hashlib
import json
import logging
import os
import zipfile
from pathlib import Path

import numpy as np

from revision_jax.data.video.extraction import Extractor, VideoFeatures
from revision_jax.disk import is_full
from revision_jax.files import read_json, write_json

MADE_BY = 1  # how files are read and encoded; raised where the same file gives other features
MAX_BYTES = 4 * 2**30  # of all entries; those not used for longest go first
log = logging.getLogger(__name__)


class FeatureCache:
    """Features by content in a folder, at most `max_bytes` of them."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES):
        self.folder, self.max_bytes = folder, max_bytes

    def encode(self, extractor: Extractor, video: str | os.PathLike) -> VideoFeatures:
        """The features of a video file: kept ones, or `extractor.encode_video` and kept.

        Raises:
          VideoError: the file cannot be used as a video.
        """
        entry = self._entry(extractor, Path(video))
        found = _read(entry, extractor)
        if found is not None:
            os.utime(entry)  # used just now
            return found
        features = extractor.encode_video(video)
        try:
            self._keep(entry, features)
        except OSError as error:
            log.warning("the features of %s are not kept: %s", video, "no space left" if is_full(error) else error)
        return features

    def _entry(self, extractor: Extractor, video: Path) -> Path:
        made = json.dumps([MADE_BY, self._content(video), extractor.fingerprint, extractor.fps])
        return self.folder / f"{hashlib.sha256(made.encode()).hexdigest()[:32]}.npz"

    def _content(self, video: Path) -> str:
        """sha256 of the file, read where its path, size or time is new."""
        stat = video.stat()
        state = [str(video.resolve()), stat.st_size, stat.st_mtime_ns]
        note = self.folder / "files" / f"{hashlib.sha256(state[0].encode()).hexdigest()[:32]}.json"
        kept = None
        with contextlib.suppress(OSError):
            kept = read_json(note)
        if isinstance(kept, dict) and kept.get("state") == state and isinstance(kept.get("sha256"), str):
            return kept["sha256"]
        with video.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with contextlib.suppress(OSError):  # it is read again the next time
            write_json(note, {"state": state, "sha256": digest})
        return digest

    def _keep(self, entry: Path, features: VideoFeatures) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = entry.with_suffix(f".{os.getpid()}")
        try:
            with partial.open("wb") as file:
                np.savez(file, features=features.features, duration_s=features.duration_s)
            os.replace(partial, entry)
        finally:
            partial.unlink(missing_ok=True)
        self._shrink()

    def _shrink(self) -> None:
        # What a killed process left half written is among them.
        entries = [path for path in self.folder.iterdir() if path.is_file()]
        entries.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in entries:
            total += path.stat().st_size
            if total > self.max_bytes:
                path.unlink(missing_ok=True)


def _read(entry: Path, extractor: Extractor) -> VideoFeatures | None:
    """What an entry holds; None where there is none, or one that is damaged."""
    try:
        with np.load(entry, allow_pickle=False) as kept:
            features, duration_s = kept["features"], float(kept["duration_s"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        log.warning("%s is damaged; the video is encoded again", entry)
        return None
    whole = features.dtype == np.float16 and features.shape[1:] == (extractor.width,) and np.isfinite(features).all()
    return VideoFeatures(features, duration_s, extractor.fps) if whole and np.isfinite(duration_s) else None
