"""What a search looks at whole: this much of it other searches of the video do alike."""

import itertools

import numpy as np

from revision_jax.search.levels.upper import UpperLevel
from revision_jax.search.packing.shared import Shared
from revision_jax.search.packing.windows import VideoWindows
from revision_jax.search.plan import Plan
from revision_jax.search.policy import window_counts
from revision_jax.search.settings import SearchSettings


def counts_of(plan: Plan, settings: SearchSettings, windows: VideoWindows) -> np.ndarray | None:
    """Windows that each level is shown, and dense windows that are asked: `[L + 1]` int32; None asks every window."""
    if plan.policy is None:
        return None
    upper = 0 if windows.upper is None else len(windows.upper)
    return window_counts(plan.policy, settings, upper, len(windows.dense))


def whole_levels(plan: Plan, windows: VideoWindows, counts: np.ndarray | None) -> tuple[UpperLevel, ...]:
    """The levels, from the first one on, that a search shows every window."""
    if counts is None or not plan.levels:
        return ()
    return tuple(
        level for level, _ in itertools.takewhile(lambda pair: pair[1] == len(windows.upper), zip(plan.levels, counts))
    )


def asks_all(windows: VideoWindows, counts: np.ndarray | None) -> bool:
    """Whether a search asks every dense window."""
    return counts is None or int(counts[-1]) == len(windows.dense)


def whole_of(shared: Shared, plan: Plan, windows: VideoWindows, counts: np.ndarray | None) -> Shared:
    """Of what is shared that which a search takes whole: what it would have had to make by itself."""
    levels = [level.size for level in whole_levels(plan, windows, counts)]
    return Shared(
        shared.vectors if levels else None,
        {size: shared.levels[size] for size in levels if size in shared.levels},
        shared.dense if asks_all(windows, counts) else None,
    )


def takes_part(shared: Shared, plan: Plan, windows: VideoWindows, counts: np.ndarray | None) -> bool:
    """Whether a search takes a part of something that is shared: what that part would have cost is not known."""
    whole = whole_of(shared, plan, windows, counts)
    return shared.dense is not whole.dense or (bool(plan.levels) and shared.vectors is not whole.vectors)
