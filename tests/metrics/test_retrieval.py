import numpy as np
import pytest

from revision_jax.metrics.retrieval import ranks_of, retrieval_scores


def test_by_hand():
    order = np.stack([np.roll(np.arange(20), shift) for shift in (0, 0, 4, 7, 12)])
    truth = np.array([0, 1, 0, 0, 0])
    assert ranks_of(order, truth).tolist() == [1, 2, 5, 8, 13]
    expected = {"R@1": 20.0, "R@5": 60.0, "R@10": 80.0, "median_rank": 5.0, "chance_R@1": 5.0}
    assert retrieval_scores(order, truth) == pytest.approx(expected)


def test_a_ranking_without_the_right_clip_is_refused():
    with pytest.raises(ValueError, match="query 1: clip 9 does not stand once"):
        ranks_of(np.array([[0, 1], [1, 0]]), np.array([0, 9]))
