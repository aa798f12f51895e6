"""Training clips: a positive window around an event, contrastive windows away from every occurrence of it, groups.

All times in seconds. Which windows are allowed is computed, never found by trial and error, so that a
draw always succeeds where `can_*` says it can. REFERENCE: the paper's section on training (arXiv 2411.14901).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from revision_jax.data.annotations.queries import Interval, Query
from revision_jax.hierarchy import Hierarchy


@dataclasses.dataclass(frozen=True)
class Clip:
    """One window of a video with a question and its answer.

    answer: (first frame, last frame) in the window's own frames 0..F-1, or None = Not Present.
    """

    query_id: str
    video_id: str
    window_start_s: float
    answer: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class GroupClip:
    """Windows in the order in which the model sees them, with one question about all of them and its answer.

    windows: (video id, start_s, end_s) of each.
    answer: (a, b), the windows a..b - 1 show the event; None = none does.
    level: what is asked, a key of `prompts.QUESTIONS`.
    """

    query_id: str
    windows: tuple[tuple[str, float, float], ...]
    answer: tuple[int, int] | None
    level: str


def positive_starts(query: Query, moment: int, window_s: float, duration_s: float) -> np.ndarray:
    """Window starts [n] float64 (seconds) that hold moment number `moment` whole, and no other of the query.

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
    for number, (other_start, other_end) in enumerate(query.moments):
        if number != moment:
            starts = starts[(starts >= other_end) | (starts + window_s <= other_start)]
    return starts


def positive(query: Query, moment: int, rng: np.random.Generator, hierarchy: Hierarchy, duration_s: float) -> Clip:
    """A random window around moment number `moment`; ValueError if there is none (see `positive_starts`)."""
    starts = positive_starts(query, moment, hierarchy.window_s, duration_s)
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
    lengths = np.array([high - low for low, high in intervals])
    total = lengths.sum()
    weights = lengths / total if total > 0 else np.full(len(intervals), 1 / len(intervals))
    low, high = intervals[rng.choice(len(intervals), p=weights)]
    return float(rng.uniform(low, high))


class Companions:
    """More questions about a window: the video's other queries, answered for that window.

    A model reads a window once for all of them (`data.questions_per_window`; the paper asks one). Half of them, where
    there are any, are events that happen whole inside the window; the others do not happen there: of these
    `near_miss_fraction` are queries whose near miss the window holds. A query with an event cut by the window's
    edge, or with two inside, has no clear answer and is not asked.
    """

    def __init__(self, queries: list[Query], hierarchy: Hierarchy, near_miss_fraction: float):
        self.queries, self.hierarchy, self.near_miss_fraction = queries, hierarchy, near_miss_fraction
        self._moments = _flat([query.moments for query in queries])
        self._distractors = _flat([query.distractors for query in queries])

    def draw(self, clip: Clip, count: int, rng: np.random.Generator) -> list[Clip]:
        """`count` clips of `clip`'s window about other queries; the same query at most once while there are others."""
        start, end = clip.window_start_s, clip.window_start_s + self.hierarchy.window_s
        touching = self._count(self._moments, lambda s, e: (s < end) & (e > start))
        inside = self._count(self._moments, lambda s, e: (s >= start) & (e <= end))
        near = self._count(self._distractors, lambda s, e: (s >= start) & (e <= end))
        other = np.array([query.query_id != clip.query_id for query in self.queries], bool)
        pools = {
            "present": list(np.flatnonzero(other & (touching == 1) & (inside == 1))),
            "near": list(np.flatnonzero(other & (touching == 0) & (near > 0))),
            "absent": list(np.flatnonzero(other & (touching == 0) & (near == 0))),
        }
        clips = []
        for _ in range(count):
            negative = ("near", "absent") if rng.random() < self.near_miss_fraction else ("absent", "near")
            order = ("present", *negative) if rng.random() < 0.5 else (*negative, "present")
            pool = next((pools[kind] for kind in order if pools[kind]), None)
            if pool is None:  # a video with fewer queries than questions: ask the clip's own again
                clips.append(clip)
                continue
            clips.append(self._clip(self.queries[pool.pop(rng.integers(len(pool)))], clip))
        return clips

    def _count(self, spans, condition) -> np.ndarray:
        """How many spans of each query meet a condition, `[queries]` int."""
        owner, start, end = spans
        return np.bincount(owner[condition(start, end)], minlength=len(self.queries))

    def _clip(self, query: Query, clip: Clip) -> Clip:
        start, window_s = clip.window_start_s, self.hierarchy.window_s
        inside = [moment for moment in query.moments if moment[0] >= start and moment[1] <= start + window_s]
        answer = self.hierarchy.to_frames(*inside[0], start) if inside else None
        return Clip(query.query_id, query.video_id, start, answer)


def _flat(spans: list[tuple[Interval, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spans of many queries as arrays: owner `[n]` int, start and end `[n]` s."""
    rows = [(owner, *span) for owner, many in enumerate(spans) for span in many]
    table = np.array(rows, np.float64).reshape(-1, 3)
    return table[:, 0].astype(np.int64), table[:, 1], table[:, 2]


def alone(clip: Clip, window_s: float) -> GroupClip:
    """A clip's window as a group of one, asked whether the event happens."""
    window = (clip.video_id, clip.window_start_s, clip.window_start_s + window_s)
    return GroupClip(clip.query_id, (window,), None if clip.answer is None else (0, 1), "sparse")


def group(
    query: Query,
    moment: int,
    rng: np.random.Generator,
    hierarchy: Hierarchy,
    duration_s: float,
    *,
    size: int,
    copies: Sequence[int],
    negative: Callable[[np.random.Generator], Clip],
) -> GroupClip:
    """`size` windows of a video, some adjacent ones around moment number `moment`, the others away from the event.

    One of `copies` is drawn: so many positive windows, each at its own offset, stand together at a random place; the
    contrastive windows before and after them, each drawn by `negative`, are in time order. ValueError where there is no
    positive or contrastive window.
    """
    count = int(rng.choice(copies))
    around = [positive(query, moment, rng, hierarchy, duration_s) for _ in range(count)]
    others = [negative(rng) for _ in range(size - count)]
    around, others = (sorted(clip.window_start_s for clip in clips) for clips in (around, others))
    place = int(rng.integers(size - count + 1))
    starts = [*others[:place], *around, *others[place:]]
    windows = tuple((query.video_id, start, start + hierarchy.window_s) for start in starts)
    return GroupClip(query.query_id, windows, (place, place + count), "group")


def video_group(
    query: Query, others: Sequence[str], rng: np.random.Generator, durations: Mapping[str, float], *, size: int
) -> GroupClip:
    """The query's video at a random place among `size - 1` of the videos `others`, each whole: which is it?"""
    if len(others) < size - 1:
        raise ValueError(
            f"query {query.query_id!r}: a group of {size} videos needs {size - 1} without the event, there are "
            f"{len(others)}; use more videos or a smaller group (hierarchy.levels)"
        )
    chosen = [others[i] for i in rng.choice(len(others), size - 1, replace=False)]
    place = int(rng.integers(size))
    chosen.insert(place, query.video_id)
    windows = tuple((video_id, 0.0, durations[video_id]) for video_id in chosen)
    return GroupClip(query.query_id, windows, (place, place + 1), "retrieval")
