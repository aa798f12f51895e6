"""Scores of answers that are sets of moments: how many, which, how much of the time. Percentages; times are seconds.

A query's set is what a method found at or above its threshold; it may be empty, and so may the truth. Sources: F1
with one-to-one matching on IoU and IoU of unions as in arXiv 2606.06294, rejection of absent events as in arXiv
2606.15320. A matched pair is right if its IoU >= theta, as these do.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from revision_jax.metrics.grounding import iou

Spans = Sequence[Sequence[float]]
THETAS = (0.3, 0.5, 0.7)


def matched_iou(found: Spans, truth: Spans, theta: float = 0.0) -> np.ndarray:
    """IoU of each pair of the one-to-one matching with the largest sum of IoU (Hungarian method): `[min(n, m)]`.

    Of matchings with equal sums, the one with most pairs of at least `theta`, whatever the order of the spans.
    """
    overlap = iou(found, truth)
    return overlap[linear_sum_assignment(overlap + 1e-9 * (overlap >= theta), maximize=True)]


def set_f1(found: Spans, truth: Spans, theta: float) -> float:
    """F1 of one query in [0, 1]; two empty sets agree (1), an empty and another one do not (0)."""
    total = len(found) + len(truth)
    return 2.0 * int(np.sum(matched_iou(found, truth, theta) >= theta)) / total if total else 1.0


def union_iou(found: Spans, truth: Spans) -> float:
    """Seconds in both sets over seconds in either, in [0, 1]; 1 if neither holds any time."""
    spans = [np.asarray(side, np.float64)[:, :2] if len(side) else np.zeros((0, 2)) for side in (found, truth)]
    times = np.unique(np.concatenate([side.ravel() for side in spans]))
    middles = (times[1:] + times[:-1]) / 2
    inside = [np.any((side[:, :1] < middles) & (middles < side[:, 1:]), axis=0) for side in spans]
    length = np.diff(times)
    both, either = (float(np.sum(length[x])) for x in (inside[0] & inside[1], inside[0] | inside[1]))
    return both / either if either else 1.0


def set_values(found: Sequence[Spans], truths: Sequence[Spans]) -> dict[str, np.ndarray]:
    """Score -> its value for each query in percent, NaN where it does not count.

    `count_accuracy` (as many found as there are) is over all queries, an absent one having 0 moments; `F1@theta` and
    `union_iou` are over present ones, for absent ones are scored by rejection.
    """
    present = np.array([len(truth) > 0 for truth in truths], bool)
    pairs = list(zip(found, truths, strict=True))
    over_present = lambda values: np.where(present, 100.0 * np.array(list(values), np.float64), np.nan)
    values = {"count_accuracy": 100.0 * np.array([len(a) == len(b) for a, b in pairs], np.float64)}
    values |= {f"F1@{theta}": over_present(set_f1(a, b, theta) for a, b in pairs) for theta in THETAS}
    return values | {"union_iou": over_present(union_iou(a, b) for a, b in pairs)}
