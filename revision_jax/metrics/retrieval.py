"""Scores of text-to-video retrieval: at which rank is the right clip? Recall is a percentage.

Clips with equal scores have no order. A tied query counts as it would on average over all orders: it is among the
first k with some probability, and its rank is the mean rank.

Letters: Q queries, C clips.
"""

import numpy as np

RANKS = (1, 5, 10)


def places_of(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many clips score above the right one, and how many others have its score: `[Q]` int64 each.

    Args:
      scores: `[Q, C]`, higher is better; -inf is allowed, NaN is not.
      truth: `[Q]` int, the right clip.

    Raises:
      ValueError: a right clip that does not exist, or a score that is no number.
    """
    scores, truth = np.asarray(scores), np.asarray(truth)
    wrong = np.flatnonzero((truth < 0) | (truth >= scores.shape[1]) | np.isnan(scores).any(axis=1))
    if len(wrong):
        query = int(wrong[0])
        raise ValueError(
            f"query {query}: its right clip is {truth[query]}; expected one of {scores.shape[1]}, with scores that "
            f"are numbers."
        )
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    return (scores > own).sum(axis=1), (scores == own).sum(axis=1) - 1


def retrieval_scores(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """`R@1`, `R@5`, `R@10`, `median_rank` (1 is first), and `chance_R@1`, what guessing gives; see `places_of`."""
    better, alike = places_of(scores, truth)
    within = {k: np.clip((k - better) / (alike + 1), 0.0, 1.0) for k in RANKS}
    recalls = {f"R@{k}": float(100.0 * np.mean(share)) for k, share in within.items()}
    rank = float(np.median(1 + better + alike / 2))
    return recalls | {"median_rank": rank, "chance_R@1": 100.0 / np.shape(scores)[1]}
