"""Average precision of ranked moments where a query may have several true ones. Percentages; times are seconds.

The definition of QVHighlights (arXiv 2107.09609) and of its evaluator: of the first 10 moments of a query, in the order
of their ranks, each takes the true moment that it overlaps most, among those that none before it took and with an
IoU >= theta. AP is the area under the interpolated curve of precision over recall; mAP is the mean over queries, at
theta .5, .75, and averaged over .5 to .95. IoU as in `metrics.grounding`.
"""

from collections.abc import Sequence

import numpy as np

from revision_jax.metrics.grounding import iou

CUT = 10  # moments of a query that count
THETAS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
NAMES = ("mAP@0.5", "mAP@0.75", "mAP")


def average_precision(moments: np.ndarray, truth: Sequence[tuple[float, float]]) -> np.ndarray:
    """AP in [0, 1] of one query at each of `THETAS`: `[T]`.

    Args:
      moments: ranked, `[k, 2+]`; none is 0.
      truth: at least one true moment.
    """
    overlap = iou(moments[:CUT], np.asarray(truth))  # [k, m]
    free = overlap >= np.array(THETAS)[:, None, None]  # [T, k, m]: pairs that may still be matched
    hits = np.zeros(free.shape[:2], bool)
    for rank in np.flatnonzero(free[0].any(axis=1)):
        hits[:, rank] = free[:, rank].any(axis=1)
        taken = np.argmax(np.where(free[:, rank], overlap[rank], -1.0), axis=1)
        free[np.flatnonzero(hits[:, rank]), :, taken[hits[:, rank]]] = False
    precision = np.cumsum(hits, axis=1) / np.arange(1, len(overlap) + 1)
    best_later = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return np.sum(best_later * hits, axis=1) / len(truth)


def precision_values(predictions: Sequence[np.ndarray], truths: Sequence[Sequence]) -> dict[str, np.ndarray]:
    """Name of `NAMES` -> its value for each query in percent, NaN for an absent one: `[Q]`."""
    table = np.full((len(truths), len(THETAS)), np.nan)
    for row, (moments, truth) in enumerate(zip(predictions, truths, strict=True)):
        if len(truth):
            table[row] = 100.0 * average_precision(moments, truth)
    columns = table[:, THETAS.index(0.5)], table[:, THETAS.index(0.75)], table.mean(axis=1)
    return dict(zip(NAMES, columns, strict=True))
