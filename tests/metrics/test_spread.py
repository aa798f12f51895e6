"""Intervals of means over seeds, against scipy and known values."""

import numpy as np
import pytest
from scipy import stats

from revision_jax.metrics.spread import over_seeds, wilson


@pytest.mark.parametrize("hits, count", [(0, 10), (10, 10), (3, 10), (150, 180)])
def test_wilson_is_scipys(hits, count):
    known = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(100.0 * hits / count, count) == pytest.approx((100 * known.low, 100 * known.high))


def test_seeds_alone_give_students_interval():
    values = [80.0, 83.0, 79.0]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert over_seeds(values, [None] * 3) == pytest.approx((np.mean(values), low, high))


def test_one_seed_has_the_interval_of_its_queries_or_none():
    assert over_seeds([80.0], [None]) == (80.0, None, None)
    assert over_seeds([80.0], [(74.0, 85.0)]) == pytest.approx((80.0, 74.0, 85.0))


def test_both_parts_are_added_in_squares_and_queries_do_not_shrink_with_seeds():
    values, bounds = [80.0, 80.0, 80.0], [(74.0, 85.0)] * 3
    assert over_seeds(values, bounds) == pytest.approx((80.0, 74.0, 85.0))
    spread = over_seeds([79.0, 80.0, 81.0], [(73.0, 84.0), (74.0, 85.0), (75.0, 86.0)])
    seeds = stats.t.ppf(0.975, 2) * 1.0 / np.sqrt(3)
    assert spread.low == pytest.approx(80 - np.hypot(seeds, 6)) and spread.high == pytest.approx(
        80 + np.hypot(seeds, 5)
    )


def test_an_interval_ends_where_no_value_can_be():
    assert over_seeds([70.0, 100.0, 99.0], [None] * 3, most=100.0).high == 100.0
    assert over_seeds([0.0, 30.0, 1.0], [None] * 3, most=100.0).low == 0.0
    assert over_seeds([700.0, 1000.0, 990.0], [None] * 3).high > 1000
