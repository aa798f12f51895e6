"""A moment of a video as a file of its own: copied from key frame to key frame, or encoded anew to the frame."""

import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from revision_jax.data.video.clock import zero_s
from revision_jax.data.video.opening import VideoError, opened

SLACK_S = 1e-3  # containers round times to milliseconds


def write_clip(video: str | os.PathLike, start_s: float, end_s: float, out: Path, *, exact: bool = False) -> None:
    """Writes seconds `start_s` to `end_s` of a video's clock as a Matroska file, whole or not at all.

    Args:
      exact: encodes the pictures anew (H.264, rotation applied, no sound), so that the clip begins and ends at the
        frame; else all streams are copied as they are, from the last key frame at or before `start_s`.

    Raises:
      VideoError: the video cannot be read there.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".partial-{out.name}")
    try:
        with opened(video) as (source, stream):
            _seek(source, stream, start_s)
            with av.open(str(partial), "w", format="matroska") as target:
                (_encode if exact else _copy)(source, stream, target, (start_s, end_s))
        os.replace(partial, out)
    except VideoError:
        raise
    except (FFmpegError, ValueError) as error:  # ValueError: PyAV's, of a codec that Matroska does not hold
        found = f"no clip from {start_s:.1f} to {end_s:.1f} s ({getattr(error, 'strerror', None) or error})"
        do = "Copy the file again or convert it" if exact else "Take --exact, which encodes them anew"
        raise VideoError(video, found, f"streams that can be {'decoded' if exact else 'copied'}", do) from error
    finally:
        partial.unlink(missing_ok=True)


def _seek(source, stream, start_s: float) -> None:
    """Goes to the last key frame at or before a second.

    FFmpeg may go to a later one where the file has no index (TS): then it is asked for an earlier second, at last for
    one before all pictures, since it goes past the first picture's own.
    """
    zero, back_s = zero_s(source), 0.0
    while True:
        offset = max(0, round((start_s - back_s + zero) * av.time_base)) if start_s > back_s else 0
        source.seek(offset, backward=True)
        keys = (packet.pts for packet in source.demux(stream) if packet.is_keyframe and packet.pts is not None)
        first = next(keys, None)
        late = first is None or float(first * stream.time_base) - zero > start_s + SLACK_S
        if not late or back_s >= start_s:
            source.seek(offset, backward=True)
            return
        back_s = max(1.0, 2 * back_s)


def _copy(source, stream, target, span: tuple[float, float]) -> None:
    """Packets of the picture from its key frame on, and of sound beside them; times begin at zero."""
    zero, origin = zero_s(source), None
    kept = [stream, *source.streams.audio]
    streams = {s.index: target.add_stream_from_template(s, opaque=True) for s in kept}
    done = set()
    for packet in _with_times(source.demux(kept)):
        time_s = float(packet.pts * packet.time_base) - zero
        own = packet.stream is stream
        if origin is None:
            if not own or not packet.is_keyframe:
                continue
            origin = time_s
        if time_s >= span[1] - SLACK_S:  # later packets may hold earlier pictures: until the next key frame of all
            done.add(packet.stream.index)
            if len(done) == len(kept) or (own and packet.is_keyframe):
                return
            continue
        if time_s < origin - SLACK_S:
            continue
        shift = round((origin + zero) / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        packet.stream = streams[packet.stream.index]
        target.mux(packet)


def _with_times(packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """Packets that are shown at some time; those of Matroska that lack a time of decoding after a seek get one."""
    waiting: dict[int, list[av.Packet]] = {}
    for packet in packets:
        held = waiting.setdefault(packet.stream_index, [])
        if packet.dts is not None:
            yield from _decoded_before(packet.dts, held)
            held.clear()
        if packet.pts is None:
            continue
        if packet.dts is None:
            held.append(packet)
        else:
            yield packet
    for held in waiting.values():
        yield from _decoded_before(None, held)


def _decoded_before(dts: int | None, held: Sequence[av.Packet]) -> Iterator[av.Packet]:
    """Gives packets times of decoding that rise, before that of the next packet and before all are shown."""
    known = [packet.pts for packet in held] + ([] if dts is None else [dts])
    for left, packet in zip(range(len(held), 0, -1), held):
        packet.dts = min(known) - left
        yield packet


def _encode(source, stream, target, span: tuple[float, float]) -> None:
    """The pictures shown within the span, each at its time."""
    encoder = None
    for picture, time_s, rate in _shown(source, stream, span):
        if encoder is None:
            encoder = target.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "18"})
            encoder.height, encoder.width = (side // 2 * 2 for side in picture.shape[:2])
            encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 1000)
            encoder.codec_context.time_base = Fraction(1, 1000)
        frame = av.VideoFrame.from_ndarray(
            np.ascontiguousarray(picture[: encoder.height, : encoder.width]), format="rgb24"
        )
        frame.pts, frame.time_base = round(max(time_s - span[0], 0.0) * 1000), Fraction(1, 1000)
        target.mux(encoder.encode(frame))
    if encoder is not None:
        target.mux(encoder.encode())


def _shown(source, stream, span: tuple[float, float]) -> Iterator[tuple[np.ndarray, float, Fraction]]:
    """(RGB picture, its second, frames a second) of all that is shown within the span."""
    zero, before = zero_s(source), None
    rate = stream.average_rate or Fraction(25)
    for frame in source.decode(stream):
        if frame.time is None:
            continue
        time_s = frame.time - zero
        if time_s >= span[1] - SLACK_S:
            break
        if time_s < span[0] - SLACK_S:
            before = frame, time_s
            continue
        if before is not None and time_s > span[0] + SLACK_S:
            yield _picture(before[0]), before[1], rate
        before = None
        yield _picture(frame), time_s, rate
    if before is not None:  # one picture stands through the whole span
        yield _picture(before[0]), before[1], rate


def _picture(frame: av.VideoFrame) -> np.ndarray:
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
