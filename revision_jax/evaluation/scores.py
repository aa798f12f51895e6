"""From predictions to scores: what is chosen on val, and what a method is worth on a split.

Percentages. Intervals are of 95 %, from a bootstrap over queries (`metrics.bootstrap`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation.protocols import PROTOCOLS, Protocol
from revision_jax.metrics.bootstrap import mean_intervals
from revision_jax.metrics.calibration import calibration_error, fit_temperature, probability, reliability
from revision_jax.metrics.cost import Cost
from revision_jax.metrics.grounding import auroc, best_iou, choose_threshold, grounding_scores, hits_at_k, rejection
from revision_jax.metrics.precision import NAMES, precision_values
from revision_jax.metrics.recall import search_recall
from revision_jax.metrics.sets import set_values
from revision_jax.search.answers.confidence import uncertainty

MAX_FALSE_ALARM = 15.0  # percent of val's absent queries that the chosen threshold may answer
CALIBRATED = (0.1, 0.3, 0.5)  # IoU above which the first moment counts as right, as the paper's ECE
COMPARED = ("R1@0.3", "R5@0.3", "R1@0.5", "mean_iou", "mAP")
# What another program's answers have instead of what is chosen on val: every moment counts as an answer.
UNCALIBRATED = {"threshold": float(np.finfo(np.float32).min), "confidence": None, "temperature": {}}
UNKNOWN_COST: dict[str, Any] = {"search": [], "cost": {}, "measured": {}}
# What is compared with what, query by query: the difference of the first minus the second.
PAIRS = (
    ("depth1", "clip"), ("depth2", "depth2_bottom_up"), ("depth3", "depth3_bottom_up"),
    ("depth3_top_down_rescaled", "depth3_bottom_up"), ("depth3", "depth1"), ("depth3_fused", "depth3"),
    ("depth3_fused", "depth1_retrieve_then_ground"), ("depth3", "depth1_retrieve_then_ground"),
)  # fmt: skip


def calibrate(queries: Sequence[Query], answers: Mapping, kinds: Mapping[str, str]) -> dict[str, dict]:
    """Method -> its threshold and temperatures on these (validation) queries, and how well it rejects there.

    `kinds`: method -> what its confidence is, a kind of `search.confidence`.
    """
    present = np.array([query.present for query in queries])
    chosen = {}
    for method, (predictions, _) in answers.items():
        scores = np.array([p.moments[0, 2] if len(p.moments) else -np.inf for p in predictions])
        threshold = choose_threshold(scores, present, MAX_FALSE_ALARM)
        claims = {theta: _claims(queries, predictions, kinds[method], theta) for theta in CALIBRATED}
        chosen[method] = {
            "threshold": threshold,
            "confidence": kinds[method],
            "temperature": {str(theta): fit_temperature(*claim) for theta, claim in claims.items()},
            "val": rejection(scores, present, threshold),
        }
    return chosen


def score(
    queries: Sequence[Query], answers: Mapping, calibration: Mapping, protocol: Protocol = PROTOCOLS["ours"]
) -> dict[str, dict]:
    """Method -> scores, failures and cost.

    Args:
      answers: method -> (predictions in the order of `queries`, cost; None where it is not known).
      calibration: what `calibrate` gave, or `UNCALIBRATED`.
      protocol: how IoU is rounded, and whether failures count.
    """
    scores = {}
    for method, (predictions, cost) in answers.items():
        named = [(p.query_id, q.query_id) for p, q in zip(predictions, queries, strict=True)]
        strangers = [pair for pair in named if pair[0] != pair[1]]
        if strangers:
            raise ValueError(f"{method}: predictions and queries are not in one order, first at {strangers[0]}.")
        counted = _counted(queries, predictions, protocol)
        moments, truths = [p.moments for _, p in counted], [q.moments for q, _ in counted]
        chosen = calibration[method]
        values = query_values(moments, truths, chosen["threshold"], protocol.iou_decimals)
        scores[method] = {
            **grounding_scores(moments, truths, chosen["threshold"], protocol.iou_decimals),
            "average_precision": {name: _mean(values[name]) for name in NAMES},
            "sets": {name: _mean(values[name]) for name in values if name not in (*COMPARED, *NAMES)},
            "intervals": mean_intervals(values),
            "calibration": _calibration(counted, chosen) if chosen["temperature"] else {},
            "failed": sum(p.error is not None for p in predictions),
            **(_spent(queries, predictions, cost) if cost is not None else UNKNOWN_COST),
        }
    return scores


def _spent(queries: Sequence[Query], predictions: Sequence, cost: Cost) -> dict[str, Any]:
    """Where a search went, what it cost, and what was measured."""
    counters = {name: value for name, value in cost.as_dict().items() if name != "seconds"}
    seconds = cost.seconds
    return {
        "search": _levels(queries, predictions, cost),
        "cost": counters | {"frame_share": cost.frame_share} | cost.rates(),
        "measured": {
            "seconds": seconds,
            "seconds_per_query": None if seconds is None else seconds / max(cost.queries, 1),
            "seconds_per_hour": None if seconds is None or not cost.video_s else 3600.0 * seconds / cost.video_s,
        },
    }


def compare(
    queries: Sequence[Query],
    answers: Mapping,
    protocol: Protocol = PROTOCOLS["ours"],
    pairs: Sequence[tuple[str, str]] = PAIRS,
) -> list[dict]:
    """Differences between methods with paired intervals, for those of `pairs` that were asked."""
    rows = []
    for one, other in pairs:
        if one not in answers or other not in answers:
            continue
        both = [
            query_values(
                [p.moments for p in answers[name][0]], [q.moments for q in queries], 0.0, protocol.iou_decimals
            )
            for name in (one, other)
        ]
        differences = {name: both[0][name] - both[1][name] for name in COMPARED}
        intervals = mean_intervals(differences)
        rows.append({"methods": [one, other]} | {
            name: {"difference": _mean(differences[name]), "interval": intervals[name]} for name in COMPARED
        })  # fmt: skip
    return rows


def query_values(moments: Sequence, truths: Sequence, threshold: float, decimals: int | None) -> dict[str, np.ndarray]:
    """Score -> its value for each query in percent, NaN where it does not count: of `COMPARED`, precision, sets."""
    overlaps = [best_iou(m, t, decimals) if len(t) else np.zeros(0) for m, t in zip(moments, truths)]
    present = np.array([len(truth) > 0 for truth in truths], bool)
    hits = hits_at_k(overlaps)
    first = np.array([overlap[0] if len(overlap) else 0.0 for overlap in overlaps])
    values = {name: hits[name] for name in COMPARED if name in hits} | {"mean_iou": first}
    values = {name: np.where(present, 100.0 * value, np.nan) for name, value in values.items()}
    return (
        values
        | precision_values(moments, truths)
        | set_values([m[m[:, 2] >= threshold] if len(m) else m for m in moments], truths)
    )


def _counted(queries: Sequence[Query], predictions: Sequence, protocol: Protocol) -> list[tuple]:
    """(query, prediction) pairs that stand in the denominator."""
    return [(q, p) for q, p in zip(queries, predictions) if not (protocol.skip_failed and p.error is not None)]


def _claims(queries: Sequence[Query], predictions: Sequence, kind: str, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Of every query with a moment: how unsure its first one is, and whether it is right (IoU > theta).

    A query without any moment claims nothing; one whose event is absent is answered wrongly by any moment.
    """
    answered = [(q, p.moments) for q, p in zip(queries, predictions) if len(p.moments)]
    right = [q.present and bool(best_iou(moments[:1], q.moments)[0] > theta) for q, moments in answered]
    sure = np.array([moments[0, 2] for _, moments in answered])
    return uncertainty(kind, sure), np.array(right, bool)


def _calibration(counted: Sequence[tuple], chosen: Mapping) -> dict[str, dict]:
    """IoU -> ECE before (temperature 1) and after, AUROC of right against wrong answers, reliability bins."""
    scores = {}
    for theta in CALIBRATED:
        unsure, right = _claims(*(zip(*counted) if counted else ((), ())), chosen["confidence"], theta)
        temperature = chosen["temperature"][str(theta)]
        p = probability(unsure, temperature)
        scores[str(theta)] = {
            "answers": len(right),
            "temperature": temperature,
            "ece": calibration_error(p, right),
            "ece_uncalibrated": calibration_error(probability(unsure, 1.0), right),
            "auroc": auroc(-unsure, right),
            "bins": reliability(p, right),
        }
    return scores


def _mean(values: np.ndarray) -> float:
    counted = values[np.isfinite(values)]
    return float(counted.mean()) if len(counted) else float("nan")


def _levels(queries: Sequence[Query], predictions: Sequence, cost: Cost) -> list[dict[str, float]]:
    """Of each upper level, coarse first: the share of windows that it sent down, and how many events were there."""
    recalls = search_recall([p.held for p, query in zip(predictions, queries) if query.present])
    shares = [100.0 * level.shown / level.windows for level in cost.levels[1:]] + [cost.frame_share]
    return [{"sent": share, "recall": recall} for share, recall in zip(shares, recalls)]
