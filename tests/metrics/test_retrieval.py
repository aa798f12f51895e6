import itertools

import numpy as np
import pytest

from revision_jax.metrics.retrieval import places_of, retrieval_scores


def test_by_hand():
    scores = -np.stack([np.roll(np.arange(20), -shift) for shift in (0, 0, 4, 7, 12)])
    truth = np.array([0, 1, 0, 0, 0])
    better, alike = places_of(scores, truth)
    assert (1 + better).tolist() == [1, 2, 5, 8, 13] and not alike.any()
    expected = {"R@1": 20.0, "R@5": 60.0, "R@10": 80.0, "median_rank": 5.0, "chance_R@1": 5.0}
    assert retrieval_scores(scores, truth) == pytest.approx(expected)


def test_ties_count_as_the_mean_over_all_orders():
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(0, 3, (12, 6)).astype(float), rng.integers(0, 6, 12)
    scores[0] = -np.inf
    within, ranks = [], []
    for row, right in zip(scores, truth):
        orders = [sorted(order, key=lambda clip: -row[clip]) for order in itertools.permutations(range(6))]
        places = np.array([order.index(right) + 1 for order in orders])
        within.append((places <= 1).mean())
        ranks.append(places.mean())
    found = retrieval_scores(scores, truth)
    assert found["R@1"] == pytest.approx(100 * np.mean(within))
    assert found["median_rank"] == pytest.approx(np.median(ranks))
    shuffled = rng.permutation(6)
    assert retrieval_scores(scores[:, shuffled], np.argsort(shuffled)[truth]) == pytest.approx(found)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="query 1: its right clip is 9; expected one of 2"):
        places_of(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0, 9]))
    with pytest.raises(ValueError, match=r"query 0: .* scores that are numbers"):
        retrieval_scores(np.array([[np.nan, 1.0]]), np.array([0]))
