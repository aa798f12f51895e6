"""Where a recursive search loses: was the event among the windows that a level sent down? Times are seconds.

This says nothing of localisation: an event that was sent down may still be answered wrongly; one that was not is lost.
An event counts as sent down if one window holds more than half of it. A query counts if any of its events does.
"""

from collections.abc import Sequence

import numpy as np

Moments = Sequence[tuple[float, float]]


def holds_event(windows: np.ndarray, moments: Moments) -> bool:
    """Whether one of the windows `[k, 2]` holds more than half of one of the moments."""
    if not len(windows) or not len(moments):
        return False
    windows, moments = np.asarray(windows, np.float64)[:, None], np.asarray(moments, np.float64)[None]
    shared = np.minimum(windows[..., 1], moments[..., 1]) - np.maximum(windows[..., 0], moments[..., 0])
    return bool(np.any(shared > 0.5 * (moments[..., 1] - moments[..., 0])))


def search_recall(held: Sequence[Sequence[bool]]) -> list[float]:
    """Level -> percent of queries whose event it sent down.

    Args:
      held: for each present query, `holds_event` of every level; empty for a query that could not be asked, which
        every level missed.
    """
    levels = max(map(len, held), default=0)
    return [float(100.0 * np.mean([len(row) > 0 and row[level] for row in held])) for level in range(levels)]
