"""Random clips and groups: positive windows around an event, contrastive windows away from every occurrence of it.

All times in seconds. Which windows are allowed is computed, never found by trial and error, so that a draw succeeds
wherever `positive_starts` or `free_starts` is not empty. REFERENCE: the paper's section on training (arXiv 2411.14901).
"""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from revision_jax.data.annotations.query import Interval, Query
from revision_jax.hierarchy import Hierarchy


@dataclasses.dataclass(frozen=True)
class Clip:
    """One window of a video with one question about it and its answer.

    answer: (first frame, last frame) in the window's own frames 0..F-1, or None = Not Present.
    """

    query_id: str
    video_id: str
    window_start_s: float
    answer: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Group:
    """Windows in the order in which the model sees them, with one question about all of them and its answer.

    A window may be a whole video, and a group may hold one window alone (level "sparse").

    windows: (video id, start_s, end_s) of each.
    answer: (a, b), the windows a..b - 1 show the event; None = none does.
    level: what is asked, a key of `prompts.QUESTIONS`.
    """

    query_id: str
    windows: tuple[tuple[str, float, float], ...]
    answer: tuple[int, int] | None
    level: str


def positive_starts(
    query: Query, moment: int, window_s: float, duration_s: float, *, shared: bool = False
) -> np.ndarray:
    """Window starts [n] float64 (seconds) that hold moment number `moment` whole, and no other of the query.

    shared: where each of them shows another one, too, all of them will do.

    The published draw: `randrange(window - ceil(event))` seconds before the event, clipped to the video; a
    start that clipping makes several times is listed as often. Empty if the event is longer than the window,
    or if its other occurrences are too near: such an event cannot be trained on at this level.
    """
    start, end = query.moments[moment]
    if end - start > window_s:
        return np.empty(0)
    room = max(1, math.floor(window_s) - math.ceil(end - start))  # an event as long as the window: 1
    starts = np.clip(start - np.arange(room), 0.0, max(0.0, duration_s - window_s))
    starts = starts[starts + window_s >= end - 1e-6]
    alone = starts
    for number, (other_start, other_end) in enumerate(query.moments):
        if number != moment:
            alone = alone[(alone >= other_end) | (alone + window_s <= other_start)]
    return starts if shared and not len(alone) else alone


def positive(
    query: Query,
    moment: int,
    rng: np.random.Generator,
    hierarchy: Hierarchy,
    duration_s: float,
    *,
    shared: bool = False,
) -> Clip:
    """A random window around moment number `moment`; ValueError if there is none (see `positive_starts`)."""
    starts = positive_starts(query, moment, hierarchy.window_s, duration_s, shared=shared)
    if not len(starts):
        raise ValueError(
            f"query {query.query_id!r}: no {hierarchy.window_s}-s window holds {query.moments[moment]} whole "
            "and alone; skip it (positive_starts is empty) or use a longer window"
        )
    start = float(starts[rng.integers(len(starts))])
    return Clip(query.query_id, query.video_id, start, hierarchy.to_frames(*query.moments[moment], start))


def free_starts(query: Query, window_s: float, duration_s: float) -> list[Interval]:
    """Intervals of starts whose window touches no occurrence of the event.

    A video shorter than a window has one start, 0.
    """
    free = [(0.0, max(0.0, duration_s - window_s))]
    for start, end in query.moments:
        free = [part for interval in free for part in _without(interval, start - window_s, end)]
    return free


def _without(interval: Interval, low: float, high: float) -> list[Interval]:
    """`interval` minus the open interval (low, high)."""
    start, end = interval
    parts = [(start, min(end, low)), (max(start, high), end)]
    return [(a, b) for a, b in parts if a <= b] if low < end and start < high else [interval]


def contrastive(
    query: Query,
    rng: np.random.Generator,
    hierarchy: Hierarchy,
    duration_s: float,
    near_miss_fraction: float = 0.0,
) -> Clip:
    """A random window of the query's video in which the event does not happen: its answer is Not Present.

    Uniform over all such windows; with probability `near_miss_fraction` one that holds a near miss whole,
    where the query has one. ValueError if every window touches the event.
    """
    free = free_starts(query, hierarchy.window_s, duration_s)
    if not free:
        raise ValueError(
            f"query {query.query_id!r}: every window of {hierarchy.window_s} s of video {query.video_id!r} "
            f"({duration_s} s) touches the event; skip it (free_starts is empty)"
        )
    if query.distractors and rng.random() < near_miss_fraction:
        near = [holding(free, distractor, hierarchy.window_s) for distractor in query.distractors]
        near = [starts for starts in near if starts]
        free = near[rng.integers(len(near))] if near else free
    return Clip(query.query_id, query.video_id, uniform(free, rng), None)


def holding(free: list[Interval], event: Interval, window_s: float) -> list[Interval]:
    """The part of `free` whose windows hold `event` whole."""
    parts = [(max(low, event[1] - window_s), min(high, event[0])) for low, high in free]
    return [(low, high) for low, high in parts if low <= high]


def uniform(intervals: list[Interval], rng: np.random.Generator) -> float:
    """A point drawn uniformly from a union of disjoint intervals (single points if they have no length)."""
    lengths = [high - low for low, high in intervals]
    total = float(np.add.reduce(lengths))
    shares = [length / total if total > 0 else 1 / len(lengths) for length in lengths]
    ends = list(itertools.accumulate(shares))
    # As `rng.choice` with these probabilities, number for number, without the checks that take most of its time.
    low, high = intervals[bisect.bisect_right([end / ends[-1] for end in ends], rng.random())]
    return float(rng.uniform(low, high))


def alone(clip: Clip, window_s: float) -> Group:
    """A clip's window as a group of one, asked whether the event happens in it."""
    window = (clip.video_id, clip.window_start_s, clip.window_start_s + window_s)
    return Group(clip.query_id, (window,), None if clip.answer is None else (0, 1), "sparse")


def group(
    positive: Callable[[np.random.Generator], Clip],
    negative: Callable[[np.random.Generator], Clip],
    rng: np.random.Generator,
    *,
    size: int,
    copies: Sequence[int],
    window_s: float,
) -> Group:
    """`size` windows of a video: some adjacent ones around one moment, the others away from the event.

    Args:
      positive: draws a window around the moment; each copy has its own offset.
      negative: draws a window of the same video without the event.
      copies: one of them is drawn: so many positive windows stand together at a random place of the group. The
        contrastive windows before and after them are in time order.
      window_s: length of a window in seconds.
    """
    count = int(rng.choice(copies))
    around = sorted([positive(rng) for _ in range(count)], key=_start)
    others = sorted([negative(rng) for _ in range(size - count)], key=_start)
    place = int(rng.integers(size - count + 1))
    clips = [*others[:place], *around, *others[place:]]
    windows = tuple((clip.video_id, clip.window_start_s, clip.window_start_s + window_s) for clip in clips)
    return Group(around[0].query_id, windows, (place, place + count), "group")


def _start(clip: Clip) -> float:
    return clip.window_start_s


def video_group(
    query: Query, others: Sequence[str], rng: np.random.Generator, durations: Mapping[str, float], *, size: int
) -> Group:
    """The query's video at a random place among `size - 1` of the videos `others`, each whole: which is it?

    durations: seconds by video id. Raises ValueError if there are too few others.
    """
    if len(others) < size - 1:
        raise ValueError(
            f"query {query.query_id!r}: a group of {size} videos needs {size - 1} without the event, there are "
            f"{len(others)}; use more videos or a smaller group (hierarchy.levels)"
        )
    chosen = [others[i] for i in rng.choice(len(others), size - 1, replace=False)]
    place = int(rng.integers(size))
    chosen.insert(place, query.video_id)
    windows = tuple((video_id, 0.0, durations[video_id]) for video_id in chosen)
    return Group(query.query_id, windows, (place, place + 1), "retrieval")
