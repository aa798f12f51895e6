"""Which windows of a video a search looks at: small frozen dataclasses with one method.

The two policies that need no upper levels: one pass over the whole video (depth 0), and every window (depth 1).
"""

import dataclasses

import numpy as np

from revision_jax.hierarchy import Hierarchy


@dataclasses.dataclass(frozen=True)
class SinglePass:
    """Depth 0: the whole video as one window of `F` frames, however long it is."""

    def windows(self, hierarchy: Hierarchy, duration_s: float) -> np.ndarray:
        """`[1, 2]` float64 seconds."""
        return np.array([[0.0, duration_s]])


@dataclasses.dataclass(frozen=True)
class AllWindows:
    """Depth 1: every window of the hierarchy."""

    def windows(self, hierarchy: Hierarchy, duration_s: float) -> np.ndarray:
        """`[W, 2]` float64 seconds."""
        return hierarchy.windows(duration_s)


POLICIES = {0: SinglePass(), 1: AllWindows()}


def policy_of(depth: int):
    """The policy of a search depth.

    Raises:
      ValueError: there is no such depth.
    """
    if depth not in POLICIES:
        raise ValueError(f"search depth {depth!r} does not exist; expected one of {sorted(POLICIES)}.")
    return POLICIES[depth]
