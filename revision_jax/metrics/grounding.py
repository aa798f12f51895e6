"""Scores of temporal grounding. Every score is a percentage; times are seconds.

A query is *present* if it has moments in the video and *absent* if not. Recall and mean IoU are over present
queries, all of them: one that failed or that found nothing is a miss. Absent queries have no moment to recall;
they are scored by rejection alone. Recall looks at the ranked moments whatever their confidence; the threshold
only decides rejection.

IoU is intersection / (max end - min start), at least 0: the official MAD scorer's, which equals the usual one
where spans overlap. A hit is IoU > theta for MAD ("mad") and IoU >= theta elsewhere ("ge"); both are reported.
The released program rounds IoU to 2 decimals before it compares; `decimals` does so.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

RANKS = (1, 5, 10, 50)
THETAS = (0.1, 0.3, 0.5, 0.7, 0.9)
INEQUALITIES = {"mad": np.greater, "ge": np.greater_equal}


def iou(spans: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`[N, 2+]` and `[M, 2+]` (start, end, ...) -> `[N, M]`."""
    if not len(spans) or not len(others):
        return np.zeros((len(spans), len(others)))
    a, b = np.asarray(spans, np.float64)[:, None, :], np.asarray(others, np.float64)[None, :, :]
    intersection = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    hull = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    return np.maximum(intersection, 0.0) / np.maximum(hull, 1e-12)


def best_iou(moments: np.ndarray, truth: Sequence[tuple[float, float]], decimals: int | None = None) -> np.ndarray:
    """Each ranked moment's IoU with the truth nearest to it: `[k]`. Any of several true moments will do."""
    if not len(truth):
        raise ValueError("an absent query has no IoU; score it by rejection.")
    best = iou(moments, np.asarray(truth)).max(axis=1) if len(moments) else np.zeros(0)
    return best if decimals is None else np.round(best, decimals)


def hits_at_k(
    overlaps: Sequence[np.ndarray],
    ranks: Sequence[int] = RANKS,
    thetas: Sequence[float] = THETAS,
    inequality: str = "mad",
) -> dict[str, np.ndarray]:
    """`{"R1@0.3": [Q] bool, ...}`: which queries have a hit among their first k moments.

    Args:
      overlaps: `best_iou` of each query's ranked moments.
    """
    hit = INEQUALITIES[inequality]
    first = {k: np.array([max(overlap[:k], default=-np.inf) for overlap in overlaps]) for k in ranks}
    return {f"R{k}@{theta}": hit(first[k], theta) for k in ranks for theta in thetas}


def recall_at_k(
    predictions: Sequence[np.ndarray],
    truths: Sequence[Sequence[tuple[float, float]]],
    ranks: Sequence[int] = RANKS,
    thetas: Sequence[float] = THETAS,
    inequality: str = "mad",
    decimals: int | None = None,
) -> dict[str, float]:
    """`{"R1@0.3": percent, ...}`: queries with a hit among their first k moments, over all queries.

    Args:
      predictions: ranked moments `[k, 2+]` of each query; an empty array is a miss.
      truths: the true moments of each query, at least one each.
      inequality: key of `INEQUALITIES`.
      decimals: IoU is rounded to them; None does not round.
    """
    _check_lengths(predictions, truths)
    overlaps = [best_iou(moments, truth, decimals) for moments, truth in zip(predictions, truths)]
    return {name: _percent(hits) for name, hits in hits_at_k(overlaps, ranks, thetas, inequality).items()}


def mean_iou(
    predictions: Sequence[np.ndarray], truths: Sequence[Sequence[tuple[float, float]]], decimals: int | None = None
) -> float:
    """IoU of the first moment, averaged over all queries, in percent."""
    _check_lengths(predictions, truths)
    overlaps = [best_iou(moments[:1], truth, decimals) for moments, truth in zip(predictions, truths)]
    return _percent(float(overlap[0]) if len(overlap) else 0.0 for overlap in overlaps)


def rejection(scores: np.ndarray, present: np.ndarray, threshold: float) -> dict[str, float]:
    """How well absent events are told from present ones: a query is rejected if its score is below the threshold.

    Args:
      scores: `[Q]`, the confidence of each query's best moment; -inf where there is none.
      present: `[Q]` bool.

    Returns:
      precision, recall and F1 of rejecting (the absent queries are the positives); `false_alarm_rate`, absent
      queries that were answered; `balanced_accuracy`; `auroc`. Percentages, NaN where a rate has no cases.
    """
    scores, present = np.asarray(scores, np.float64), np.asarray(present, bool)
    rejected, absent = ~(scores >= threshold), ~present
    right = int(np.sum(rejected & absent))
    precision, recall = _ratio(right, rejected.sum()), _ratio(right, absent.sum())
    accepted = _ratio(np.sum(~rejected & present), present.sum())
    return {
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * right, rejected.sum() + absent.sum()),
        "false_alarm_rate": 100.0 - recall,
        "accepted": accepted,
        "balanced_accuracy": (recall + accepted) / 2,
        "auroc": auroc(scores, present),
    }


def auroc(scores: np.ndarray, present: np.ndarray) -> float:
    """Percent chance that a present query scores above an absent one, ties counting half; NaN without both."""
    scores, present = np.asarray(scores, np.float64), np.asarray(present, bool)
    inside, outside = int(present.sum()), int((~present).sum())
    if not inside or not outside:
        return float("nan")
    wins = rankdata(scores)[present].sum() - inside * (inside + 1) / 2
    return float(100.0 * wins / (inside * outside))


def choose_threshold(scores: np.ndarray, present: np.ndarray, max_false_alarm: float = 10.0) -> float:
    """The threshold with the best balanced accuracy among those with few false alarms.

    It lies halfway between two scores; of equally good ones, the lowest is taken. Without absent queries there is
    nothing to reject and every finite score passes; without present ones, no threshold is better than the
    strictest.

    Args:
      max_false_alarm: percent of absent queries that may be answered.
    """
    scores, present = np.asarray(scores, np.float64), np.asarray(present, bool)
    if present.all():
        return float(np.finfo(np.float32).min)
    levels = np.unique(scores[np.isfinite(scores)])
    if not len(levels):
        return 0.0
    # Above the last score nothing is accepted: no false alarms, so there is always a candidate.
    above = levels[-1] + max(abs(levels[-1]) * 1e-3, 1e-6)
    candidates = np.concatenate([levels[:1], (levels[1:] + levels[:-1]) / 2, [above]])
    accepted = lambda some: 1.0 - np.searchsorted(np.sort(some), candidates) / len(some)  # share >= each candidate
    false_alarms = accepted(scores[~present])
    found = accepted(scores[present]) if present.any() else np.zeros(len(candidates))
    allowed = 100.0 * false_alarms <= max_false_alarm
    accuracy = np.where(allowed, found - false_alarms, -np.inf)
    return float(candidates[int(np.argmax(accuracy))])


def grounding_scores(
    predictions: Sequence[np.ndarray],
    truths: Sequence[Sequence[tuple[float, float]]],
    threshold: float,
    decimals: int | None = None,
) -> dict:
    """All scores of one method over a split.

    Args:
      predictions: ranked moments `[k, 3]` (start, end, confidence) of each query; empty for a failed one.
      truths: true moments of each query; empty for an absent one.
      threshold: the least confidence that counts as present.
      decimals: see `recall_at_k`.
    """
    _check_lengths(predictions, truths)
    present = np.array([len(truth) > 0 for truth in truths], bool)
    answered = [p for p, truth in zip(predictions, truths) if len(truth)]
    wanted = [truth for truth in truths if len(truth)]
    scores = np.array([p[0][2] if len(p) else -np.inf for p in predictions])
    recall = lambda inequality: recall_at_k(answered, wanted, inequality=inequality, decimals=decimals)
    return {
        "queries": len(truths),
        "present": int(present.sum()),
        "absent": int((~present).sum()),
        "recall": {name: recall(name) for name in INEQUALITIES} if wanted else {},
        "mean_iou": mean_iou(answered, wanted, decimals) if wanted else float("nan"),
        "rejection": rejection(scores, present, threshold),
        "threshold": float(threshold),
    }


def _check_lengths(predictions, truths) -> None:
    if len(predictions) != len(truths):
        raise ValueError(
            f"{len(predictions)} predictions for {len(truths)} queries; expected one each (an empty one for a "
            f"query that failed), so that no query leaves the denominator."
        )


def _percent(values) -> float:
    values = list(values)
    if not values:
        raise ValueError("there are no present queries; recall needs at least one.")
    return float(100.0 * np.mean(values))


def _ratio(part, whole) -> float:
    return float(100.0 * part / whole) if whole else float("nan")
