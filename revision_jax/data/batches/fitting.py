"""Which moments have a window that holds them, and which queries a window without their event; for all queries at once.

Letters: n queries, m moments of all of them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from revision_jax.data.batches import sampling
from revision_jax.data.batches.strategy import Guarded

TOO_LONG = "longer than the window"
TOO_NEAR = "another occurrence too near"
NO_ROOM = "no window without the event"


class Fitting(NamedTuple):
    """What can be drawn of queries.

    moments: `[m, 2]` int32, (query, moment of it).
    too_long, too_near: `[m]` bool, why a moment has no window.
    room: `[n]` bool, whether the query's video has a window without the event.
    """

    moments: np.ndarray
    too_long: np.ndarray
    too_near: np.ndarray
    room: np.ndarray

    @property
    def fits(self) -> np.ndarray:
        """`[m]` bool: whether a moment has a window."""
        return ~(self.too_long | self.too_near)


def find_fitting(
    guarded: Guarded, durations: Mapping[str, float], window_s: float | None, *, shared: bool = False
) -> Fitting:
    """What can be drawn of the queries of a table, as `sampling.positive_starts` and `free_starts` say.

    Where an event happens once, which is the usual case, their rules are two comparisons.

    Args:
      durations: seconds by video id.
      window_s: length of a window in seconds; None = a window is a whole video.
      shared: as `sampling.positive_starts`.
    """
    queries = guarded.queries
    counts, last_s = queries.moments.counts, queries.durations(durations)
    windows_s = last_s if window_s is None else np.full(len(queries), float(window_s))
    owner = np.repeat(np.arange(len(queries), dtype=np.int32), counts)
    place = (np.arange(len(owner)) - np.repeat(queries.moments.ends - counts, counts)).astype(np.int32)
    start, end = queries.moments.times.T
    too_long = end - start > windows_s[owner]
    sure = (counts[owner] == 1) & (end <= np.maximum(last_s, windows_s)[owner])
    too_near = np.zeros(len(owner), bool)
    for row in np.flatnonzero(~(too_long | sure)).tolist():
        number = int(owner[row])
        starts = sampling.positive_starts(
            queries[number], int(place[row]), windows_s[number], last_s[number], shared=shared
        )
        too_near[row] = not len(starts)
    moments = np.stack([owner, place], axis=1)
    return Fitting(moments, too_long, too_near, _room(guarded, windows_s, last_s))


def _room(guarded: Guarded, windows_s: np.ndarray, last_s: np.ndarray) -> np.ndarray:
    """`Fitting.room`, from the seconds of each query's window and video `[n]`."""
    queries = guarded.queries
    counts = queries.moments.counts
    room = np.ones(len(queries), bool)  # an event that never happens leaves room
    once = np.flatnonzero(counts == 1)
    start, end = queries.moments.times[queries.moments.ends[once] - 1].T
    room[once] = (start >= windows_s[once]) | (end <= np.maximum(0.0, last_s - windows_s)[once])
    for number in np.flatnonzero((counts > 1) | queries.repeated).tolist():
        room[number] = bool(sampling.free_starts(guarded.of(number), windows_s[number], last_s[number]))
    return room


def counted(reasons: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Reason -> how many it holds for; those that hold for none are left out."""
    return {reason: int(holds.sum()) for reason, holds in reasons.items() if holds.any()}
