"""Scores of answers about given windows and groups, apart from any search. Scores are percentages.

Letters: N answers.
"""

from collections.abc import Sequence

import numpy as np


def presence_scores(named: np.ndarray, kinds: Sequence[str]) -> dict[str, float]:
    """Share of right answers to "does it happen here?".

    Args:
      named: `[N]` bool, True where the answer was yes.
      kinds: of each window "present", "absent" or "near miss" (absent, but something alike happens).

    Returns:
      accuracy: mean of the right answers on present and on not present windows, so that guessing gives 50; and the
      share of right answers on each kind, with the number of windows.
    """
    named, kinds = np.asarray(named, bool), np.asarray(kinds)
    present = kinds == "present"
    right = named == present
    scores = {"accuracy": (_percent(right[present]) + _percent(right[~present])) / 2, "windows": len(named)}
    for kind in ("present", "absent", "near miss"):
        chosen = kinds == kind
        scores[kind] = {"right": _percent(right[chosen]), "windows": int(chosen.sum())}
    return scores


def interval_scores(named: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How well intervals of windows were named.

    Args:
      named, truth: `[N, 2]` int, windows a..b - 1.

    Returns:
      exact: both ends right; iou: mean intersection over union; found: share that names at least one right window;
      hit_rate: share of the named windows that are right; and the number of groups.
    """
    named, truth = np.asarray(named).reshape(-1, 2), np.asarray(truth).reshape(-1, 2)
    shared = np.maximum(np.minimum(named, truth)[:, 1] - np.maximum(named, truth)[:, 0], 0)
    lengths = (named[:, 1] - named[:, 0], truth[:, 1] - truth[:, 0])
    return {
        "exact": _percent((named == truth).all(axis=1)),
        "iou": _percent(shared / (lengths[0] + lengths[1] - shared)),
        "found": _percent(shared > 0),
        "hit_rate": _percent(shared.sum() / lengths[0].sum()) if len(named) else float("nan"),
        "groups": len(named),
    }


def _percent(values) -> float:
    """The mean in percent, NaN of nothing."""
    values = np.asarray(values, np.float64)
    return float(100 * values.mean()) if values.size else float("nan")
