"""Pictures that need no decoding: no sample shows them, and no other picture is made of them.

At 5 samples a second of a film with 25, four pictures of five are not sampled. Those that no other refers to (about
half of the pictures of a film with B-frames) are left out by the decoder; the sampled ones stay the same.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator

import av
from av.error import FFmpegError
from av.format import Flags

from revision_jax.data.video.clock import BACK_S

CODECS = {"h264", "hevc"}  # FFmpeg's decoders of these look at each packet for itself, whatever thread decodes it
AHEAD = 32  # packets of the stream that are looked at before one is decoded; both codecs move a picture by 16 at most
MARGIN_S = 2e-3  # on both sides of a picture: more than times in a file are rounded by


def can_skip(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether pictures may be left out: the codec marks them, and the clock of the container does not jump."""
    return stream.codec_context.name in CODECS and not container.format.flags & Flags.ts_discont.value


def with_skips(
    packets: Iterable[av.Packet], stream: av.VideoStream, zero_s: float, fps: float
) -> Iterator[tuple[av.Packet, bool]]:
    """Each packet, in order, with whether its picture may be left out if no other picture needs it.

    Kept is what may be shown at a time that is sampled, the first and the last picture, and everything from the first
    packet on that has no time or whose time steps back (`clock.BACK_S`).

    Args:
      packets: of all streams of the file.
      stream: the packets of others are handed on.
      zero_s: second of the file's clock at which players begin to count.
      fps: samples a second, from 0 s on.

    Raises:
      FFmpegError: that of `packets`, after all packets before it.
    """
    window, held, own, error = _Window(float(stream.time_base or 0), zero_s, fps), deque(), 0, None
    source = iter(packets)
    while True:
        try:
            packet = next(source)
        except StopIteration:
            break
        except FFmpegError as found:
            error = found
            break
        held.append(packet)
        if packet.stream is stream:
            window.add(packet)
            own += 1
        while own > AHEAD:
            packet = held.popleft()
            is_own = packet.stream is stream
            own -= is_own
            yield packet, is_own and window.unseen(packet)
    for packet in held:
        yield packet, packet.stream is stream and window.unseen(packet)
    if error is not None:
        raise error


class _Window:
    """The times of the packets around the one that is decoded next."""

    def __init__(self, tick_s: float, zero_s: float, fps: float):
        self._tick_s, self._zero_s, self._fps = tick_s, zero_s, fps
        self._times: list[int] = []  # sorted ticks
        self._regular = tick_s > 0

    def add(self, packet: av.Packet) -> None:
        if packet.pts is None:
            self._regular &= not packet.size  # the last packet of a stream holds nothing
            return
        if self._times and (self._times[-1] - packet.pts) * self._tick_s > BACK_S:
            self._regular = False
        insort(self._times, packet.pts)
        if len(self._times) > 3 * AHEAD:
            self._times.pop(0)

    def unseen(self, packet: av.Packet) -> bool:
        """Whether no sample shows the packet's picture; false where that is not sure."""
        if not self._regular or packet.pts is None:
            return False
        before, after = bisect_left(self._times, packet.pts), bisect_right(self._times, packet.pts)
        if not before or after == len(self._times):
            return False
        start_s = packet.pts * self._tick_s - self._zero_s - MARGIN_S
        end_s = self._times[after] * self._tick_s - self._zero_s + MARGIN_S
        return math.ceil(start_s * self._fps) / self._fps >= end_s
