"""From predictions to scores: the threshold chosen on val, and what a method is worth on a split."""

from collections.abc import Mapping, Sequence

import numpy as np

from revision_jax.data.moments import Query
from revision_jax.metrics.cost import Cost
from revision_jax.metrics.grounding import choose_threshold, grounding_scores, rejection
from revision_jax.metrics.recall import search_recall

MAX_FALSE_ALARM = 15.0  # percent of val's absent queries that the chosen threshold may answer


def choose_thresholds(queries: Sequence[Query], answers: Mapping) -> dict[str, dict]:
    """Method -> its confidence threshold on these (validation) queries, and how well it rejects there."""
    present = np.array([query.present for query in queries])
    chosen = {}
    for method, (predictions, _) in answers.items():
        scores = np.array([p.moments[0, 2] if len(p.moments) else -np.inf for p in predictions])
        threshold = choose_threshold(scores, present, MAX_FALSE_ALARM)
        chosen[method] = {"threshold": threshold, "val": rejection(scores, present, threshold)}
    return chosen


def score(queries: Sequence[Query], answers: Mapping, calibration: Mapping) -> dict[str, dict]:
    """Method -> scores, failures and cost.

    Args:
      answers: method -> (predictions in the order of `queries`, cost).
      calibration: what `choose_thresholds` gave.
    """
    scores = {}
    for method, (predictions, cost) in answers.items():
        named = [(p.query_id, q.query_id) for p, q in zip(predictions, queries, strict=True)]
        strangers = [pair for pair in named if pair[0] != pair[1]]
        if strangers:
            raise ValueError(f"{method}: predictions and queries are not in one order, first at {strangers[0]}.")
        scores[method] = {
            **grounding_scores(
                [p.moments for p in predictions], [q.moments for q in queries], calibration[method]["threshold"]
            ),
            "failed": sum(p.error is not None for p in predictions),
            "search": _levels(queries, predictions, cost),
            "cost": cost.as_dict()
            | {"seconds_per_query": cost.seconds / max(cost.queries, 1), "frame_share": cost.frame_share},
        }
    return scores


def _levels(queries: Sequence[Query], predictions: Sequence, cost: Cost) -> list[dict[str, float]]:
    """Of each upper level, coarse first: the share of windows that it sent down, and how many events were there."""
    recalls = search_recall([p.held for p, query in zip(predictions, queries) if query.present])
    shares = [100.0 * level.shown / level.windows for level in cost.levels[1:]] + [cost.frame_share]
    return [{"sent": share, "recall": recall} for share, recall in zip(shares, recalls)]
