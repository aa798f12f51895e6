"""More questions about a window: the other queries of its video, answered for that window."""

from collections.abc import Callable

import numpy as np

from revision_jax.data.annotations.query import Interval, Query
from revision_jax.data.batches.sampling import Clip
from revision_jax.hierarchy import Hierarchy

Spans = tuple[np.ndarray, np.ndarray, np.ndarray]  # of all queries: owner `[n]` int, start and end `[n]` s


class Companions:
    """Draws further clips of a clip's window, each about another query of the video.

    A model reads a window once for all its questions (`data.questions_per_window`; the paper asks one). Half of the
    companions, where there are any, are events that happen whole inside the window; the others do not happen there, and
    of these `near_miss_fraction` are queries whose near miss the window holds. A query has no clear answer, and is not
    asked, if its event is cut by the window's edge or happens twice inside.

    Args:
      queries: all queries of one video.
    """

    def __init__(self, queries: list[Query], hierarchy: Hierarchy, near_miss_fraction: float):
        self.queries, self.hierarchy, self.near_miss_fraction = queries, hierarchy, near_miss_fraction
        self._moments = _flat([query.moments for query in queries])
        self._distractors = _flat([query.distractors for query in queries])

    def draw(self, clip: Clip, count: int, rng: np.random.Generator) -> list[Clip]:
        """`count` clips of `clip`'s window; no query comes twice, except the clip's own where the video has too few."""
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
            if pool is None:
                clips.append(clip)
                continue
            clips.append(self._clip(self.queries[pool.pop(rng.integers(len(pool)))], clip))
        return clips

    def _count(self, spans: Spans, condition: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """How many spans of each query meet a condition on (starts, ends): `[queries]` int."""
        owner, start, end = spans
        return np.bincount(owner[condition(start, end)], minlength=len(self.queries))

    def _clip(self, query: Query, clip: Clip) -> Clip:
        start, window_s = clip.window_start_s, self.hierarchy.window_s
        inside = [moment for moment in query.moments if moment[0] >= start and moment[1] <= start + window_s]
        answer = self.hierarchy.to_frames(*inside[0], start) if inside else None
        return Clip(query.query_id, query.video_id, start, answer)


def _flat(spans: list[tuple[Interval, ...]]) -> Spans:
    """The spans of each query -> those of all queries in one list."""
    rows = [(owner, *span) for owner, many in enumerate(spans) for span in many]
    table = np.array(rows, np.float64).reshape(-1, 3)
    return table[:, 0].astype(np.int64), table[:, 1], table[:, 2]
