"""The clock of a video file: presentation times as a player shows them, in seconds from the file's zero.

Times of a recording that was joined from parts start again, or jump; at such seams time goes on from the frame before,
so that all frames are shown in playing order.
"""

import logging
import os

import av
from av.format import Flags

log = logging.getLogger(__name__)
BACK_S = 0.25  # times that step back by less are jitter; by more, another recording begins
MAX_GAP_S = 3600.0  # the longest for which one picture may be shown
MAX_STREAM_GAP_S = (
    10.0  # the same in broadcast streams (TS, VOB), whose clock may jump; as FFmpeg and its player have it
)
LATE_S = 1.0  # a first picture that comes later than this is told
# Containers whose time starts at 0 by definition: a track may start later. Others start at their earliest stream.
ZERO_BASED = {"mov", "matroska", "avi", "flv"}


class Clock:
    """The time of one video stream: packets and frames as they come from the file -> seconds as a player counts them.

    seams: how often the clock was mended. reached_s: the end of any stream so far, on the file's own clock.
    """

    def __init__(self, path: str | os.PathLike, container: av.container.InputContainer, stream: av.VideoStream):
        self.path, self.seams, self.reached_s = path, 0, 0.0
        self._index, self._zero_s = stream.index, zero_s(container)
        if self._zero_s and ZERO_BASED & set(container.format.name.split(",")):
            log.warning("%s: its clock begins at %.0f s; times are counted from there", path, self._zero_s)
        self._jumps = bool(container.format.flags & Flags.ts_discont.value)
        self._ticks_s: dict[int, float] = {}  # streams -> seconds of a tick
        self._offset_s = 0.0  # added to the file's clock
        self._others: dict[int, float] = {}  # other streams -> where they end, as far as they go on without a jump

    def note(self, packet: av.Packet) -> None:
        """Notes how far a packet reaches, and whether the time of its stream goes on without a jump."""
        pts, index = packet.pts, packet.stream_index
        if pts is None:
            return
        if (tick_s := self._ticks_s.get(index)) is None:
            tick_s = self._ticks_s[index] = float(packet.time_base or 0)
        start_s, end_s = pts * tick_s, (pts + (packet.duration or 0)) * tick_s
        self.reached_s = max(self.reached_s, end_s)
        if index == self._index:
            return
        known = self._others.get(index, start_s)
        if -BACK_S <= start_s - known <= MAX_STREAM_GAP_S:
            self._others[index] = max(known, end_s)

    def time_s(self, shown_s: float, previous: tuple[float, float] | None) -> float:
        """Seconds at which a frame is shown.

        Args:
          shown_s: its time on the file's clock.
          previous: (time_s, length in seconds) of the frame before it, None for the first.
        """
        time_s = shown_s - self._zero_s + self._offset_s
        if previous is None:
            return time_s
        step_s = time_s - previous[0]
        if step_s < -BACK_S:
            found = f"starts again {-step_s:.1f} s earlier"
        elif self._jumps and step_s > self._longest_gap(shown_s):
            found = f"jumps forward by {step_s:.1f} s"
        else:
            return time_s
        mended_s = sum(previous)
        log.warning(
            "%s: its clock %s after %.1f s, where recordings were joined or the signal was lost; frames keep their "
            "playing order, and times go on from there", self.path, found, mended_s,
        )  # fmt: skip
        self._offset_s += mended_s - time_s
        self._others.clear()
        self.seams += 1
        return mended_s

    def _longest_gap(self, shown_s: float) -> float:
        """Seconds: what is longer is a jump of the clock, unless another stream goes on through the gap."""
        covered = max(self._others.values(), default=float("-inf")) >= shown_s - MAX_STREAM_GAP_S
        return MAX_GAP_S if covered else MAX_STREAM_GAP_S


def zero_s(container: av.container.InputContainer) -> float:
    """Seconds of the container's clock at which players begin to count."""
    start_s = (container.start_time or 0) / av.time_base
    based = ZERO_BASED & set(container.format.name.split(","))
    return 0.0 if based and start_s <= MAX_GAP_S else start_s


def declared_s(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Seconds that the file says of itself, counted from `zero_s`; None where it says nothing that can be relied on.

    Streams (TS, VOB) say nothing: FFmpeg guesses from their first and last times.
    """
    whole = container.duration / av.time_base if container.duration else None
    if container.format.flags & Flags.ts_discont.value:
        return None
    if stream.duration and stream.time_base:
        own = float(stream.duration * stream.time_base)
        whole = own if whole is None else min(own, whole)
    return whole if whole is None else whole + delay_s(container, stream)


def delay_s(container: av.container.InputContainer, stream: av.VideoStream) -> float:
    """Seconds before a track's first picture, where its declared length does not count them (mp4, mov)."""
    if "mov" not in container.format.name.split(",") or stream.start_time is None:
        return 0.0
    return max(0.0, float(stream.start_time * stream.time_base) - zero_s(container))
