"""The windows of a video that a search looks at, in seconds and in rows of its features.

Letters: W dense windows, U upper windows, F frames a window, P parents of a dense window.
"""

from typing import NamedTuple

import numpy as np

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.hierarchy import Hierarchy
from revision_jax.search.released import dense_windows


class VideoWindows(NamedTuple):
    """The windows of a video.

    Attributes:
      dense: `[W, 2]` float64 seconds; dense_frames: `[W, F]` int64 rows of the features.
      all_dense: windows that a search of depth 1 asks.
      upper, upper_frames: `[U, 2]`, `[U, F]`, the same of upper windows; None where the search has no upper levels.
      parents: `[W, P]` int32, the upper windows that send a dense one down.
    """

    dense: np.ndarray
    dense_frames: np.ndarray
    all_dense: int
    upper: np.ndarray | None = None
    upper_frames: np.ndarray | None = None
    parents: np.ndarray | None = None

    @classmethod
    def of(cls, hierarchy: Hierarchy, video: VideoFeatures, depth: int, rule: str = "whole") -> "VideoWindows":
        """The windows of a search of this depth; depth 0 has the whole video as one window.

        Args:
          rule: `search.windows`.

        Raises:
          ValueError: upper levels, and another rule than `whole`.
        """
        duration_s, fps, num_frames = video.duration_s, video.fps, len(video.features)
        frames = lambda windows: hierarchy.frame_indices(windows[:, 0], windows[:, 1], fps, num_frames)
        dense = dense_windows(hierarchy, rule, duration_s, fps, num_frames)
        if depth == 0:
            whole = np.array([[0.0, duration_s]])
            return cls(whole, frames(whole), len(dense))
        if depth == 1:
            return cls(dense, frames(dense), len(dense))
        if rule != "whole":
            raise ValueError(f"search.windows is {rule!r}; expected 'whole' at depth {depth}: windows have parents.")
        upper = hierarchy.upper_windows(duration_s)
        return cls(dense, frames(dense), len(dense), upper, frames(upper), hierarchy.parents(duration_s))


def check_features(features: np.ndarray) -> None:
    """Raises ValueError for a video's features `[N, D]` that cannot be searched."""
    if not len(features):
        raise ValueError("the video has no frames; expected features [N, D] of at least one.")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ValueError(
            f"{int((~finite).sum())} of {len(finite)} frames have features that are not finite, the first is frame "
            f"{first}; expected numbers. Extract this video again."
        )
