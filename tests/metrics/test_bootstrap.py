import numpy as np
import pytest
from scipy.stats import bootstrap

from revision_jax.metrics.bootstrap import mean_intervals


def test_equals_scipy():
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 10.0, 150)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=1).confidence_interval
    low, high = mean_intervals({"a": values}, samples=4000)["a"]
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.15 * (high - low))


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    base = rng.random(200) * 100
    intervals = mean_intervals({"a": base, "b": base + 1.0, "difference": np.ones(200)})
    assert intervals["difference"] == [1.0, 1.0]
    assert intervals["b"] == pytest.approx((intervals["a"][0] + 1, intervals["a"][1] + 1))


def test_queries_that_do_not_count_are_left_out():
    values = np.array([100.0, 0.0, np.nan, np.nan] * 20)
    low, high = mean_intervals({"a": values})["a"]
    assert 25 < low < 50 < high < 75
    assert np.isnan(mean_intervals({"a": np.full(5, np.nan)})["a"]).all() and mean_intervals({}) == {}


def test_certain_values_and_the_seed():
    assert mean_intervals({"a": np.full(9, 7.0)})["a"] == [7.0, 7.0]
    values = {"a": np.arange(50.0)}
    assert mean_intervals(values) == mean_intervals(values) != mean_intervals(values, seed=1)
