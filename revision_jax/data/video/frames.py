"""Video files -> RGB frames on the video's own clock, a batch at a time (PyAV).

Every frame that any part of this program sees is scaled here, by the same filter: short side to `size`, then
the centre square, as CLIP does. All frames are decoded, only the sampled ones are converted (the cost).
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

CLOCK_SLACK_S = 1e-3  # containers such as Matroska round times to milliseconds
SMALL = 320 * 240  # pixels; below, handing frames to threads costs more than decoding them


class VideoError(ValueError):
    """A file that cannot be used as a video; the message is one line: path, found, expected, what to do."""

    def __init__(self, path: str | os.PathLike, found: str, expected: str, do: str):
        super().__init__(f"{path}: found {found}; expected {expected}. {do}.")
        self.path, self.found, self.expected, self.do = str(path), found, expected, do


@dataclasses.dataclass(frozen=True)
class VideoProbe:
    """What a file says about itself.

    duration_s: declared length in seconds, None if it does not say. fps: average frames a second, None if
    unknown. width, height: stored pixels. rotation: degrees counterclockwise to be applied for display.
    """

    duration_s: float | None
    fps: float | None
    width: int
    height: int
    rotation: int
    codec: str
    container: str


def _open(path) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Opens a file and chooses its video stream; VideoError if there is none."""
    path = pathlib.Path(path)
    expected = "a video file that FFmpeg reads (mp4, mkv, webm, avi, ...)"
    if not path.exists():
        raise VideoError(path, "no such file", expected, "Check the path")
    if not path.is_file():
        raise VideoError(path, "a directory", expected, "Name one file")
    try:
        container = av.open(f"file:{path}")  # `file:`, else a name with a colon is taken for a protocol
    except (FFmpegError, OSError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        hint = "an incomplete or damaged file, or no video at all" if "nvalid data" in reason else reason
        raise VideoError(path, hint, expected, "Copy the file again or convert it with ffmpeg") from error
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams or container.format.name == "tty":  # FFmpeg draws text files as pictures
        found = "a text file" if container.format.name == "tty" else _describe(container)
        container.close()
        raise VideoError(path, found, expected, "Give a file with a picture")
    return container, streams[0]


def _describe(container) -> str:
    kinds = sorted({stream.type for stream in container.streams if stream.type != "video"})
    return f"only {' and '.join(kinds)}, no video stream" if kinds else "no streams"


def _declared_s(container, stream) -> tuple[float | None, float]:
    """The declared length in seconds (None if unknown), and by how much a whole file may fall short of it."""
    whole = container.duration / av.time_base if container.duration else None
    if stream.duration and stream.time_base:
        length = float(stream.duration * stream.time_base)
        return (length if whole is None else min(length, whole)), 1.0
    # Of the longest stream, or guessed from the bit rate.
    return whole, max(1.0, 0.01 * (whole or 0.0))


def probe(path: str | os.PathLike) -> VideoProbe:
    """Reads a video's description and its first frame; VideoError if there is no video in it."""
    container, stream = _open(path)
    with container:
        try:
            first = next(container.decode(stream), None)
        except FFmpegError as error:
            raise _damaged(path, 0.0, error) from error
        if first is None:
            raise _no_frames(path)
        return VideoProbe(
            duration_s=_declared_s(container, stream)[0],
            fps=float(stream.average_rate) if stream.average_rate else None,
            width=first.width,
            height=first.height,
            rotation=first.rotation,
            codec=stream.codec_context.name,
            container=container.format.name,
        )


def _no_frames(path) -> VideoError:
    return VideoError(path, "a video stream without frames", "at least one frame", "Make or copy the file again")


def _damaged(path, time_s: float, error: Exception) -> VideoError:
    found = f"damage after {time_s:.1f} s ({getattr(error, 'strerror', None) or error})"
    return VideoError(path, found, "a file that decodes to its end", "Copy or convert the file again")


class Scaler:
    """Pictures of any size -> uint8 RGB [size, size, 3]: short side to `size`, centre square (bicubic)."""

    def __init__(self, size: int):
        self.size = size
        # Kept for all frames: a new one for each costs five times the scaling itself.
        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame, aspect: float = 1.0) -> np.ndarray:
        """One frame -> [size, size, 3]; `aspect` is the width of a pixel over its height."""
        width, height = frame.width * aspect, frame.height
        scale = self.size / min(width, height)
        width, height = max(self.size, int(width * scale + 1e-6)), max(self.size, int(height * scale + 1e-6))
        frame = self._reformatter.reformat(
            frame, width, height, "rgb24", interpolation=Interpolation.BICUBIC, threads=1
        )
        top, left = (height - self.size) // 2, (width - self.size) // 2
        return frame.to_ndarray()[top : top + self.size, left : left + self.size]

    def array(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, height, width, 3] -> [n, size, size, 3]."""
        if frames.shape[1:3] == (self.size, self.size):
            return frames
        pictures = [self(av.VideoFrame.from_ndarray(np.ascontiguousarray(f), format="rgb24")) for f in frames]
        return np.stack(pictures) if pictures else np.empty((0, self.size, self.size, 3), np.uint8)


class FrameReader(Iterator[np.ndarray]):
    """Iterator of uint8 batches [<= batch, size, size, 3]: the frames shown at 0, 1/fps, 2/fps, ... seconds.

    Times count from the video's first frame; `duration_s`, the decoded length, is known after the last batch.
    Memory does not grow with the video. Raises VideoError as `read_frames` says.
    """

    def __init__(
        self, path: str | os.PathLike, fps: float, size: int, *, batch: int = 64, allow_truncated: bool = False
    ):
        if not fps > 0:
            raise ValueError(f"fps is {fps}; expected frames a second > 0")
        self.path, self.fps, self.size = path, fps, size
        self.duration_s: float | None = None
        self._first_s = 0.0
        self._allow_truncated = allow_truncated
        self._container, self._stream = _open(path)
        self._scaler = Scaler(size)
        self._batches = self._run(batch)

    def __next__(self) -> np.ndarray:
        return next(self._batches)

    def close(self) -> None:
        """Closes the file before its end."""
        self._batches.close()
        self._container.close()

    def _run(self, batch: int) -> Iterator[np.ndarray]:
        pictures = []
        with self._container:
            for picture in self._samples():
                pictures.append(picture)
                if len(pictures) == batch:
                    yield np.stack(pictures)
                    pictures = []
        if pictures:
            yield np.stack(pictures)

    def _samples(self) -> Iterator[np.ndarray]:
        """The picture at every sample time, in order."""
        count = 0
        for frame, end in self._shown():
            picture = None
            while count / self.fps < end - CLOCK_SLACK_S:
                if picture is None:  # converted once, however often it is sampled
                    picture = self._picture(frame)
                yield picture
                count += 1
        if not count:
            raise _no_frames(self.path)

    def _shown(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Each frame with the second at which the next one takes its place."""
        previous, start = None, 0.0
        for frame, time_s in self._decoded():
            time_s = max(time_s, start)  # broken files step back
            if previous is not None:
                yield previous, time_s
            previous, start = frame, time_s
        if previous is not None:
            self.duration_s = start + self._length(previous)
            yield previous, self.duration_s
            self._check_length()

    def _decoded(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Each frame with its time in seconds since the first one."""
        stream = self._stream
        small = stream.codec_context.width * stream.codec_context.height <= SMALL
        stream.thread_type = "NONE" if small else "AUTO"
        first, last = None, 0.0
        try:
            for frame in self._container.decode(stream):
                time_s = frame.time if frame.time is not None else last + self._length(frame)
                if first is None:
                    first = self._first_s = time_s
                last = time_s
                yield frame, time_s - first
        except FFmpegError as error:
            if not self._allow_truncated:
                raise _damaged(self.path, last - (first or 0.0), error) from error

    def _length(self, frame) -> float:
        """Seconds for which a frame is shown when none follows."""
        if frame.duration and frame.time_base:
            return float(frame.duration * frame.time_base)
        rate = self._stream.average_rate or self._stream.guessed_rate
        return 1 / float(rate) if rate else 1 / self.fps

    def _check_length(self) -> None:
        declared, slack = _declared_s(self._container, self._stream)
        end_s = self.duration_s + max(0.0, self._first_s)  # some containers declare when the last frame ends
        if self._allow_truncated or declared is None or end_s >= declared - slack:
            return
        raise VideoError(
            self.path,
            f"{self.duration_s:.1f} s of video",
            f"the {declared:.1f} s that the file declares",
            "It was cut short: copy it again, or pass allow_truncated=True to use what is there",
        )

    def _picture(self, frame) -> np.ndarray:
        aspect = float(self._stream.sample_aspect_ratio or 1)
        quarter_turns = round(frame.rotation / 90)
        return np.rot90(self._scaler(frame, aspect), quarter_turns)


def read_frames(
    path: str | os.PathLike, fps: float, size: int, *, batch: int = 64, allow_truncated: bool = False
) -> FrameReader:
    """Frames of a video file sampled at `fps` on its own clock, variable frame rates and rotation honoured.

    Returns an iterator of uint8 batches [<= batch, size, size, 3]. VideoError at once for a missing file, a
    text file and a file without a video stream; at the end for one that was cut short (its decoded length is
    below the declared one by more than a second, or 1 % where only an estimate is declared).
    """
    return FrameReader(path, fps, size, batch=batch, allow_truncated=allow_truncated)


def write_video(path: str | os.PathLike, batches: Iterable[np.ndarray], fps: float, codec: str = "libx264") -> None:
    """Writes uint8 RGB batches [n, height, width, 3] (even sides) as a video file, whole or not at all."""
    path = pathlib.Path(path)
    partial = path.with_name(f".partial-{path.name}")  # FFmpeg knows the container by the suffix
    reformatter = VideoReformatter()
    with av.open(str(partial), "w") as container:
        stream = container.add_stream(
            codec, rate=Fraction(fps).limit_denominator(1001), options={"preset": "ultrafast", "crf": "23"}
        )
        stream.pix_fmt = "yuv420p"
        for picture in (picture for batch in batches for picture in batch):
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(reformatter.reformat(frame, format="yuv420p", threads=1)))
        container.mux(stream.encode())
    os.replace(partial, path)
