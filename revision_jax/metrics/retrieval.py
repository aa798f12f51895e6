"""Scores of text-to-video retrieval: at which rank is the right clip? Recall is a percentage."""

import numpy as np

RANKS = (1, 5, 10)


def ranks_of(order: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Rank of the right clip, 1 is first: `[Q]` int64.

    Args:
      order: `[Q, C]` int, the clips of each query, best first.
      truth: `[Q]` int, the right one.

    Raises:
      ValueError: a query whose right clip is not in its order.
    """
    order, truth = np.asarray(order), np.asarray(truth)
    right = order == truth[:, None]
    if not (right.sum(axis=1) == 1).all():
        query = int(np.flatnonzero(right.sum(axis=1) != 1)[0])
        raise ValueError(f"query {query}: clip {truth[query]} does not stand once in its ranking.")
    return right.argmax(axis=1) + 1


def retrieval_scores(order: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """`R@1`, `R@5`, `R@10`, `median_rank`, and `chance_R@1`, what guessing gives."""
    ranks = ranks_of(order, truth)
    recalls = {f"R@{k}": float(100.0 * np.mean(ranks <= k)) for k in RANKS}
    return recalls | {"median_rank": float(np.median(ranks)), "chance_R@1": 100.0 / np.shape(order)[1]}
