"""The hierarchy of windows over a long video: pure geometry, numpy only.

One object says which clips are sampled in training, which segments are searched, and how frames map to
seconds, so that training, search and cost accounting can never disagree. Source: ReVisionLLM (arXiv
2411.14901) section 3; REFERENCE section 1 of the project: a window of `window_s` seconds is represented by
`num_frames` frames, and an answer names frames of its window.

There are two rows of windows. At the *dense* level the LLM is asked at which frames of a window the event is. The
*upper* windows, which lie closer together, are read in groups, one level after the other, from large groups to small
ones. An answer there names windows of its group; the search goes on in the dense windows that overlap these most.

Letters: W dense windows, U upper windows, P upper windows of a dense one.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """Windows of fixed length over a video.

    Attributes:
      window_s: length of a window in seconds.
      num_frames: frames `F` the model sees of a window.
      stride: step between dense windows as a fraction of the window, in (0, 1].
      upper_stride: step between upper windows, as a fraction of one of them.
      levels: upper windows a group has at each upper level, the largest groups first.
      upper_scale: length of an upper window, in dense ones: with longer ones a level reads fewer tokens of a video.
    """

    window_s: float
    num_frames: int
    stride: float = 0.5
    upper_stride: float = 0.2
    levels: tuple[int, ...] = (100, 33)
    upper_scale: float = 1.0

    def __post_init__(self):
        if not self.window_s > 0:
            raise ValueError(f"hierarchy.window_s is {self.window_s}; expected seconds > 0.")
        if self.num_frames < 2:
            raise ValueError(f"hierarchy.num_frames is {self.num_frames}; expected at least 2 frames a window.")
        for name in ("stride", "upper_stride"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"hierarchy.{name} is {getattr(self, name)}; expected a fraction of the window in (0, 1]."
                )
        if not self.upper_scale >= 1:
            raise ValueError(f"hierarchy.upper_scale is {self.upper_scale}; expected at least 1, the dense windows'.")
        if any(size < 2 for size in self.levels) or any(a <= b for a, b in zip(self.levels, self.levels[1:])):
            raise ValueError(
                f"hierarchy.levels is {self.levels}; expected windows a group, at least 2, each level fewer than the "
                f"one before."
            )

    @property
    def max_depth(self) -> int:
        """Depth of a search through all levels: 1 for the dense windows, and one for each upper level."""
        return 1 + len(self.levels)

    def levels_of(self, depth: int) -> tuple[int, ...]:
        """Group sizes of the upper levels that a search of this depth goes through: the finest of them.

        Raises:
          ValueError: there are not so many levels.
        """
        if not 1 <= depth <= self.max_depth:
            raise ValueError(
                f"search depth {depth!r} does not exist; hierarchy.levels {self.levels} allow 1 to {self.max_depth}."
            )
        return self.levels[self.max_depth - depth :]

    def windows(self, duration_s: float) -> np.ndarray:
        """Dense windows that cover a video, `[W, 2]` float64 (start, end) in seconds.

        The last window is moved left so that it is whole; a video shorter than a window gets one window that
        starts at 0 (its frames past the end repeat the last frame).
        """
        return self._cover(duration_s, self.window_s, self.stride)

    def upper_windows(self, duration_s: float) -> np.ndarray:
        """Upper windows that cover a video, `[U, 2]`, as `windows`."""
        return self._cover(duration_s, self.window_s * self.upper_scale, self.upper_stride)

    @staticmethod
    def _cover(duration_s: float, length: float, stride: float) -> np.ndarray:
        if not duration_s > 0:
            raise ValueError(f"a video of {duration_s} s has no windows; expected a duration > 0.")
        last = max(duration_s - length, 0.0)
        starts = np.append(np.arange(0.0, last, length * stride), last)
        return np.stack([starts, starts + length], axis=1)

    def parents(self, duration_s: float) -> np.ndarray:
        """Which upper windows send each dense window down: `[W, P]` int32, filled up with repetitions.

        Those that hold more than half of it; and so that no window stays without a parent or without a child,
        a window is also joined to those that it overlaps most. P depends on the strides alone.
        """
        dense, upper = self.windows(duration_s)[:, None], self.upper_windows(duration_s)
        shared = np.minimum(dense[..., 1], upper[:, 1]) - np.maximum(dense[..., 0], upper[:, 0])
        shared = np.round(shared / self.window_s, 6)  # [W, U], dense windows; below 0 they are apart
        joined = shared > 0.5
        joined |= shared == shared.max(axis=0)
        joined |= shared == shared.max(axis=1, keepdims=True)
        # Starts less than half a window away on both sides, the last window, which was moved, and ties.
        most = int(1 / self.upper_stride) + 4
        order = np.argsort(~joined, axis=1, kind="stable")[:, :most]
        parents = np.where(np.take_along_axis(joined, order, axis=1), order, order[:, :1])
        return np.pad(parents, ((0, 0), (0, most - parents.shape[1])), mode="edge").astype(np.int32)

    def frame_indices(self, start_s: ArrayLike, end_s: ArrayLike, fps: float, total_frames: int) -> np.ndarray:
        """Stored frames that represent a span: `[..., F]` int64, `linspace(start, end, F)` truncated, as published.

        Args:
          start_s, end_s: span in seconds, scalars or arrays of one shape.
          fps: stored frames a second.
          total_frames: stored frames of the video; indices are clipped to it.
        """
        start, end = np.asarray(start_s, np.float64) * fps, np.asarray(end_s, np.float64) * fps
        # `np.linspace` to the bit, in a third of its time.
        indices = np.arange(self.num_frames) * ((end - start) / (self.num_frames - 1))[..., None] + start[..., None]
        indices[..., -1] = end
        # Times such as 0.3 * 10 fall an ulp short of a whole frame; truncation must not lose that frame.
        return np.minimum(np.maximum((indices + 1e-6).astype(np.int64), 0), total_frames - 1)

    def to_frames(self, start_s: float, end_s: float, window_start_s: float) -> tuple[int, int]:
        """Frames `(s, e)` of a span given in seconds: `round(t / window_s * F)`, within `0..F-1`."""
        scale = self.num_frames / self.window_s
        s, e = (int(np.clip(np.round((t - window_start_s) * scale), 0, self.num_frames - 1)) for t in (start_s, end_s))
        return s, e

    def to_seconds(self, s: Any, e: Any, window_start_s: Any) -> tuple[Any, Any]:
        """(start, end) in seconds of frames `s..e` of a window: the inverse of `to_frames`.

        Takes and gives scalars or arrays, of numpy or jax.

        A span of one frame (`s == e`) is widened by one frame on both sides, so that it has a length.
        """
        width = self.window_s / self.num_frames
        point = s == e
        return window_start_s + (s - point) * width, window_start_s + (e + point) * width
