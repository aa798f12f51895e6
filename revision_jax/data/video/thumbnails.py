"""Small pictures of a video at given seconds, found by seeking: a long video is not read."""

import io
import math
import os
import time
from collections.abc import Iterable

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image

from revision_jax.data.video.clock import zero_s
from revision_jax.data.video.opening import VideoError, opened

SIDE = 160  # pixels of the longer side
MOST_DECODED = 600  # pictures from a key frame on; what stands further behind it is shown by the last of these
SLACK_S = 1e-3  # containers round times to milliseconds


def thumbnails(path: str | os.PathLike, times_s: Iterable[float], *, until: float = math.inf) -> dict[float, bytes]:
    """Second of the video's clock -> JPEG of the picture shown then; beyond the end, of the last one that is found.

    Args:
      until: value of `time.perf_counter` after which no more are made.

    Raises:
      VideoError: the file cannot be opened, or not be decoded at one of these times.
    """
    found: dict[float, bytes] = {}
    with opened(path) as (container, stream):
        zero, aspect = zero_s(container), float(stream.sample_aspect_ratio or 1)
        for time_s in sorted(set(times_s)):
            if time.perf_counter() > until:
                break
            try:
                frame = _shown_at(container, stream, time_s + zero)
                if frame is not None:
                    found[time_s] = _jpeg(frame, aspect)
            except (FFmpegError, ValueError) as error:
                told = f"no picture at {time_s:.1f} s ({getattr(error, 'strerror', None) or error})"
                raise VideoError(path, told, "a file that decodes there", "Copy or convert the file again") from error
    return found


def _shown_at(container, stream: av.VideoStream, second: float) -> av.VideoFrame | None:
    """The last frame from the key frame before `second` (on the file's own clock) that begins by then."""
    container.seek(max(0, round(second * av.time_base)), backward=True)
    shown = None
    for number, frame in enumerate(container.decode(stream)):
        late = frame.time is not None and frame.time > second + SLACK_S
        if shown is not None and (late or number >= MOST_DECODED):
            break
        shown = frame
        if late:
            break
    return shown


def _jpeg(frame: av.VideoFrame, aspect: float) -> bytes:
    width, height = frame.width * aspect, frame.height
    scale = min(1.0, SIDE / max(width, height))
    small = frame.reformat(max(2, round(width * scale)), max(2, round(height * scale)), "rgb24")
    upright = np.rot90(small.to_ndarray(), round(frame.rotation / 90))
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(upright)).save(out, "JPEG", quality=70)
    return out.getvalue()
