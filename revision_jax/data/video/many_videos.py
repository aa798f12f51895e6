"""Many video files -> features: batches of the encoder are filled across videos, while other threads decode.

Letters: S image side, D feature width.
"""

import collections
import os
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.store.features import first_non_finite
from revision_jax.data.video import frames as video
from revision_jax.data.video.background import interleaved
from revision_jax.data.video.extraction import Extractor, VideoFeatures

AHEAD = 2  # decoded batches that wait for the encoder, and encoded ones that wait for the host


def encode_videos(
    extractor: Extractor, files: Iterable[tuple[str, str | os.PathLike]], *, decoders: int = 1
) -> Iterator[tuple[str, VideoFeatures | Gap]]:
    """Features of (video id, file) one after another as they are done, or why a file cannot be used.

    Only the features of a video are kept in memory. A kill loses the videos that are being decoded, one for each
    decoder, and those whose last frames still wait for a batch to fill.

    decoders: threads that decode, a video each.
    """
    files, lock = iter(files), threading.Lock()
    sources = [_decode(extractor, files, lock) for _ in range(decoders)]
    batches = _Batches(extractor)
    for video_id, found in interleaved(sources, AHEAD):
        if isinstance(found, np.ndarray):
            yield from batches.add(video_id, found)
        elif isinstance(found, Gap):
            batches.drop(video_id)
            yield video_id, found
        else:
            yield from batches.end(video_id, found)
    yield from batches.flush()


def _decode(extractor: Extractor, files: Iterator, lock: threading.Lock):
    """(id, frames [n, S, S, 3]) of one file after another; then (id, its length in seconds), or (id, a gap)."""
    while True:
        with lock:
            video_id, path = next(files, (None, None))
        if path is None:
            return
        try:
            frames = video.read_frames(path, extractor.fps, extractor.square, batch=extractor.batch)
            for batch in frames:
                yield video_id, batch
            yield video_id, frames.duration_s
        except video.VideoError as error:
            yield video_id, Gap("video unreadable", str(error), video_id)


class _Batches:
    """Fills the encoder's batches with frames of any video and gives each its features back."""

    def __init__(self, extractor: Extractor):
        self.extractor = extractor
        side = extractor.square.size
        self._buffer = np.zeros((extractor.batch, side, side, 3), np.uint8)
        self._owners: list[tuple[str, int]] = []  # of the rows of the buffer: video, number of rows
        self._waiting = collections.deque()  # (features on the device, owners)
        self._pieces = collections.defaultdict(list)
        self._pending = collections.Counter()  # frames of a video that are not yet encoded
        self._lengths: dict[str, float] = {}  # seconds, of videos decoded to their end

    @property
    def _filled(self) -> int:
        return sum(count for _, count in self._owners)

    def add(self, video_id: str, frames: np.ndarray) -> Iterator[tuple[str, VideoFeatures | Gap]]:
        self._pending[video_id] += len(frames)
        while len(frames):
            start = self._filled
            taken = min(len(frames), len(self._buffer) - start)
            self._buffer[start : start + taken] = frames[:taken]
            self._owners.append((video_id, taken))
            frames = frames[taken:]
            if self._filled == len(self._buffer):
                self._submit()
        while len(self._waiting) > AHEAD:
            yield from self._fetch()

    def end(self, video_id: str, duration_s: float) -> Iterator[tuple[str, VideoFeatures | Gap]]:
        self._lengths[video_id] = duration_s
        yield from self._finished(video_id)

    def drop(self, video_id: str) -> None:
        """Forgets a video; what the encoder has of it is thrown away when it comes."""
        self._pieces.pop(video_id, None)
        del self._pending[video_id]

    def flush(self) -> Iterator[tuple[str, VideoFeatures | Gap]]:
        if self._owners:
            self._submit()
        while self._waiting:
            yield from self._fetch()

    def _submit(self) -> None:
        self._waiting.append((self.extractor.encode_batch(self._buffer.copy()), self._owners))
        self._owners = []

    def _fetch(self) -> Iterator[tuple[str, VideoFeatures | Gap]]:
        features, owners = self._waiting.popleft()
        features, row = np.asarray(features), 0
        for video_id, count in owners:
            if video_id in self._pending:
                self._pieces[video_id].append(features[row : row + count])
                self._pending[video_id] -= count
            row += count
        for video_id in dict.fromkeys(video_id for video_id, _ in owners):
            yield from self._finished(video_id)

    def _finished(self, video_id: str) -> Iterator[tuple[str, VideoFeatures | Gap]]:
        if video_id not in self._lengths or self._pending[video_id]:
            return
        features = np.concatenate(self._pieces.pop(video_id))
        del self._pending[video_id]
        duration_s, fps = self._lengths.pop(video_id), self.extractor.fps
        if (bad := first_non_finite(features)) is not None:
            detail = f"the encoder gives NaN or infinity at frame {bad} ({bad / fps:.2f} s); check its weights"
            yield video_id, Gap("not finite", detail, video_id)
        else:
            yield video_id, VideoFeatures(features, duration_s, fps)
