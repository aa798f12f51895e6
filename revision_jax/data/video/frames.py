"""Video files -> RGB frames on the video's own clock, a batch at a time (PyAV).

What is not sampled is not converted, and not decoded where nothing else needs it (skipping.py). The clock is that of a
player: clock.py.
"""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from revision_jax.data.video.clock import LATE_S, MAX_GAP_S, Clock, declared_s, zero_s
from revision_jax.data.video.joined import second_recording
from revision_jax.data.video.opening import IMAGES, VideoError, opened, still, too_large
from revision_jax.data.video.scaling import Scaler, Square
from revision_jax.data.video.skipping import can_skip, with_skips

log = logging.getLogger(__name__)
CLOCK_SLACK_S = 1e-3  # containers such as Matroska round times to milliseconds
MAX_RATIO = 100  # of a picture's sides
STILL = ("gif", "apng")  # moving pictures, or one that stands still
WHOLE_LENGTH = {"matroska", "flv"}  # these declare one length; FFmpeg may give it to a stream that starts late
SMALL = 320 * 240  # pixels; below, handing frames to threads costs more than decoding them


@dataclasses.dataclass(frozen=True)
class VideoProbe:
    """What a file says about itself.

    duration_s: declared length in seconds on its clock, None if it does not say (TS and VOB never do). fps: average
    frames a second, None if unknown. width, height: stored pixels. rotation: degrees counterclockwise to be applied for
    display.
    """

    duration_s: float | None
    fps: float | None
    width: int
    height: int
    rotation: int
    codec: str
    container: str


def probe(path: str | os.PathLike) -> VideoProbe:
    """Reads a video's description and its first frame; VideoError if there is no video in it."""
    with opened(path) as (container, stream):
        try:
            first = next(container.decode(stream), None)
        except FFmpegError as error:
            raise _damaged(path, 0.0, error, stream) from error
        if first is None:
            raise _no_frames(path)
        return VideoProbe(
            duration_s=declared_s(container, stream),
            fps=float(stream.average_rate) if stream.average_rate else None,
            width=first.width,
            height=first.height,
            rotation=first.rotation,
            codec=stream.codec_context.name,
            container=container.format.name,
        )


def _no_frames(path) -> VideoError:
    return VideoError(path, "a video stream without frames", "at least one frame", "Make or copy the file again")


def _damaged(path, time_s: float, error: Exception, stream: av.VideoStream | None = None) -> VideoError:
    if stream is not None and not stream.codec_context.width:  # FFmpeg drops a size that is beyond the limit
        return too_large(path, "pictures without a size, or of one beyond the limit")
    found = f"damage after {time_s:.1f} s ({getattr(error, 'strerror', None) or error})"
    return VideoError(path, found, "a file that decodes to its end", "Copy or convert the file again")


class FrameReader(Iterator[np.ndarray]):
    """Iterator of uint8 batches [<= batch, size, size, 3]: the frames shown at 0, 1/fps, 2/fps, ... seconds.

    Times are those of a player; before the first picture, that picture is shown. `duration_s`, when the last one
    ends, is known after the last batch. Memory does not grow with the video. Raises VideoError as `read_frames` says.
    """

    def __init__(
        self, path: str | os.PathLike, fps: float, size: Square | int, *, batch: int = 64, allow_truncated: bool = False
    ):
        if not fps > 0:
            raise ValueError(f"fps is {fps}; expected frames a second > 0")
        self.path, self.fps = path, fps
        self.duration_s: float | None = None
        self._allow_truncated = allow_truncated
        self._opened = opened(path)
        self._container, self._stream = self._opened.__enter__()
        self._clock = Clock(path, self._container, self._stream)
        self._skips = can_skip(self._container, self._stream)
        self._scaler = Scaler(size)
        self._batches = self._run(batch)

    def __next__(self) -> np.ndarray:
        return next(self._batches)

    def close(self) -> None:
        """Closes the file before its end."""
        self._batches.close()
        self._opened.__exit__(None, None, None)

    def _run(self, batch: int) -> Iterator[np.ndarray]:
        pictures = []
        try:
            for picture in self._samples():
                pictures.append(picture)
                if len(pictures) == batch:
                    yield np.stack(pictures)
                    pictures = []
        finally:
            self._opened.__exit__(None, None, None)
        if pictures:
            yield np.stack(pictures)

    def _samples(self) -> Iterator[np.ndarray]:
        """The picture at every sample time, in order."""
        count = 0
        for frame, end in self._shown():
            picture = None
            while count / self.fps < end - CLOCK_SLACK_S:
                if picture is None:  # converted once, however often it is sampled
                    picture = self._picture(frame, end)
                yield picture
                count += 1
        if not count:
            raise _no_frames(self.path)

    def _shown(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Each frame with the second at which the next one takes its place."""
        previous, start, frames, unseen = None, 0.0, 0, 0
        for frame, time_s in self._decoded():
            unseen += time_s < start - CLOCK_SLACK_S
            time_s = max(time_s, start)  # broken files step back
            self._check_gap(start, time_s)
            if previous is not None:
                yield previous, time_s
            elif time_s > LATE_S:
                log.warning(
                    "%s: its first picture comes after %.2f s; until then it is that picture", self.path, time_s
                )
            previous, start, frames = frame, time_s, frames + 1
        if previous is None:
            return
        if unseen:
            log.warning("%s: %d of %d pictures have times that step back; not shown", self.path, unseen, frames)
        if (at := second_recording(self.path, self._container.format.name)) is not None:
            log.warning(
                "%s: another recording begins at byte %d, after %.1f s; players and this program show the first alone. "
                "Join the recordings with ffmpeg's concat demuxer", self.path, at, start,
            )  # fmt: skip
        if frames == 1 and self._container.format.name in STILL:
            raise still(self.path)
        end = start + self._length(previous)
        self._check_gap(start, end)
        self.duration_s = end
        yield previous, end
        self._check_length()

    def _decoded(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Each frame with its time in seconds on a player's clock."""
        stream, clock = self._stream, self._clock
        small = stream.codec_context.width * stream.codec_context.height <= SMALL
        stream.thread_type = "NONE" if small else "AUTO"
        previous, time_s = None, 0.0
        try:
            for packet, unseen in self._marked_packets():
                clock.note(packet)
                if packet.stream is not stream:  # the last packets, without data, have no index of their own
                    continue
                if self._skips:
                    stream.codec_context.skip_frame = "NONREF" if unseen else "DEFAULT"
                for frame in packet.decode():
                    if frame.time is not None:
                        time_s = clock.time_s(frame.time, previous)
                    elif previous is not None:
                        time_s = sum(previous)
                    yield frame, time_s
                    previous = time_s, self._length(frame)
        except FFmpegError as error:
            if not self._allow_truncated:
                raise _damaged(self.path, time_s, error, stream) from error

    def _marked_packets(self) -> Iterator[tuple[av.Packet, bool]]:
        """Packets of all streams, with whether no sample shows their picture."""
        packets = _packets(self._container)
        if not self._skips:
            return ((packet, False) for packet in packets)
        return with_skips(packets, self._stream, zero_s(self._container), self.fps)

    def _length(self, frame) -> float:
        """Seconds for which a frame is shown when none follows."""
        if frame.duration and frame.time_base:
            return float(frame.duration * frame.time_base)
        rate = self._stream.average_rate or self._stream.guessed_rate
        return 1 / float(rate) if rate else 1 / self.fps

    def _check_gap(self, start_s: float, end_s: float) -> None:
        if end_s - start_s > MAX_GAP_S:
            found = f"one picture for {end_s - start_s:.6g} s, from {start_s:.1f} s on"
            do = "Its clock is broken: write the times anew (ffmpeg's filter setpts, or -r for a constant frame rate)"
            raise VideoError(self.path, found, f"no picture for more than {MAX_GAP_S:.0f} s", do)

    def _check_length(self) -> None:
        declared = declared_s(self._container, self._stream)
        if self._allow_truncated or declared is None or self._clock.seams:
            return
        reached_s, slack = self.duration_s, 1.0
        names = self._container.format.name.split(",")
        if not self._stream.duration or WHOLE_LENGTH & set(
            names
        ):  # of the longest stream, or guessed from the bit rate
            reached_s, slack = max(reached_s, self._clock.reached_s), max(1.0, 0.01 * declared)
        if reached_s >= declared - slack:
            return
        raise VideoError(
            self.path,
            f"{self.duration_s:.1f} s of video",
            f"the {declared:.1f} s that the file declares",
            "It was cut short: copy it again (Python: allow_truncated=True uses what is there)",
        )

    def _picture(self, frame, time_s: float) -> np.ndarray:
        aspect = float(self._stream.sample_aspect_ratio or 1)
        width, height = frame.width * aspect, frame.height
        if max(width, height) > MAX_RATIO * min(width, height):
            found = f"pictures of {width:.0f} x {height} at {time_s:.1f} s"
            raise VideoError(self.path, found, f"sides of at most {MAX_RATIO} to 1", "Crop it or make it again")
        try:
            picture = self._scaler(frame, aspect)
        except (FFmpegError, ValueError) as error:
            raise _damaged(self.path, time_s, error) from error
        return np.rot90(picture, round(frame.rotation / 90))


def _packets(container: av.container.InputContainer) -> Iterator[av.Packet]:
    """Packets of all streams, and an empty one for each at the end."""
    packets = container.demux()
    while True:
        try:
            packet = next(packets, None)
        except IndexError:  # PyAV, after the last packets of the streams it knows: others appeared on the way
            return
        if packet is None:
            return
        yield packet


def read_frames(
    path: str | os.PathLike, fps: float, size: Square | int, *, batch: int = 64, allow_truncated: bool = False
) -> FrameReader:
    """Frames of a video file sampled at `fps` on a player's clock, variable frame rates and rotation honoured.

    Returns an iterator of uint8 batches [<= batch, size, size, 3]. VideoError at once for a missing file, a text
    file, a playlist, a still image and a file without a video stream; for one picture that lasts more than an hour; at
    the end for a file that was cut short: all of it ends before the declared length by more than a second (1 % where
    that is the length of the longest stream).
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


def read_image(path: str | os.PathLike, size: Square | int) -> np.ndarray:
    """An image file (or the first picture of a moving one) -> uint8 RGB [size, size, 3], scaled as frames are.

    Raises:
      VideoError: no image that can be read.
    """
    with opened(path, IMAGES) as (container, stream):
        try:
            frame = next(container.decode(stream), None)
            if frame is None:
                raise _no_frames(path)
            return np.rot90(Scaler(size)(frame, float(stream.sample_aspect_ratio or 1)), round(frame.rotation / 90))
        except FFmpegError as error:
            raise _damaged(path, 0.0, error, stream) from error
