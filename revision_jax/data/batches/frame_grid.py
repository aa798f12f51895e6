"""A video's frames on a coarse grid: what strategies compare with sentences, and windows around a chosen time.

Letters: N frames of a video, n frames of its grid, D feature width.
"""

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches import sampling
from revision_jax.data.batches.sampling import Clip
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy

GRID = 32  # frames of a window that are compared: enough to meet an event of a few seconds
TOP = 8  # times of a video among which `hard` and `mined` choose
LOOK_ALIKE = 0.97  # cosine to the event's own frames above which a frame may show the event


class FrameGrid:
    """The frames of a split's videos on a grid, as unit vectors; a video is read once and kept in memory.

    Args:
      store: of the split.
      hierarchy: `GRID` frames are taken of each of its windows.
    """

    def __init__(self, store: FeatureStore, hierarchy: Hierarchy):
        self.store, self.hierarchy = store, hierarchy
        self.step = max(1, int(hierarchy.window_s / GRID * store.manifest.fps))  # stored frames
        self._grids: dict[str, np.ndarray] = {}

    def frames(self, video_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Times `[n]` s and unit features `[n, D]` float16 of a video."""
        frames = np.arange(0, self.store.manifest.videos[video_id].num_frames, self.step)
        if video_id not in self._grids:
            self._grids[video_id] = unit_rows(self.store.read(video_id, frames)).astype(np.float16)
        return frames / self.store.manifest.fps, self._grids[video_id]

    def allowed(self, query: Query) -> np.ndarray:
        """`[n]` bool: a window without the event can hold this time, and its frame does not look like the event."""
        times, unit = self.frames(query.video_id)
        window_s, duration_s = self.hierarchy.window_s, self.store.durations[query.video_id]
        held = np.zeros(len(times), bool)
        for low, high in sampling.free_starts(query, window_s, duration_s):
            held |= (times >= low) & (times <= high + window_s)
        for start, end in query.moments:
            inside = np.arange(int(start * self.store.manifest.fps), int(end * self.store.manifest.fps) + 1)
            last = self.store.manifest.videos[query.video_id].num_frames - 1
            event = unit_rows(self.store.read(query.video_id, np.minimum(inside, last)))
            held &= (unit.astype(np.float32) @ event.T).max(axis=1) < LOOK_ALIKE
        return held

    def best_apart(self, times: np.ndarray) -> np.ndarray:
        """The first `TOP` of some times `[k]` s, each at least half a window from those before it."""
        return spread(times, self.hierarchy.window_s / 2)

    def draw_around(self, times: np.ndarray, query: Query, rng: np.random.Generator) -> Clip | None:
        """A window that holds one of some times `[k]` s, drawn at random, and does not touch the event.

        Uniform over all such windows; None if there are no times, or no such window.
        """
        if not len(times):
            return None
        time_s = float(times[rng.integers(len(times))])
        starts = sampling.free_starts(query, self.hierarchy.window_s, self.store.durations[query.video_id])
        held = sampling.holding(starts, (time_s, time_s), self.hierarchy.window_s)
        return Clip(query.query_id, query.video_id, sampling.uniform(held, rng), None) if held else None


def spread(times: np.ndarray, apart_s: float) -> np.ndarray:
    """The first `TOP` of some times in their order, each at least `apart_s` seconds from those before it."""
    kept: list[float] = []
    for time_s in times:
        if len(kept) == TOP:
            break
        if all(abs(time_s - other) >= apart_s for other in kept):
            kept.append(float(time_s))
    return np.array(kept)


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows `[n, D]` as float32 vectors of length 1."""
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)
