import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from revision_jax.metrics.calibration import calibration_error, fit_temperature, probability, reliability

ANSWERS = st.lists(st.tuples(st.integers(0, 20).map(lambda n: n / 20), st.booleans()), min_size=1, max_size=60)


def test_bins_equal_scikit_learn():
    rng = np.random.default_rng(0)
    p = rng.random(500)
    right = rng.random(500) < p**2
    accuracy, confidence = calibration_curve(right, p, n_bins=10)
    rows = reliability(p, right)
    np.testing.assert_allclose([row["accuracy"] / 100 for row in rows], accuracy)
    np.testing.assert_allclose([row["confidence"] / 100 for row in rows], confidence)
    weights = np.histogram(p, bins=10, range=(0, 1))[0] / 500
    assert calibration_error(p, right) == pytest.approx(100 * np.sum(weights * np.abs(accuracy - confidence)))


@settings(max_examples=100, deadline=None)
@given(ANSWERS, st.randoms())
def test_invariants_of_the_error(answers, random):
    p, right = map(np.array, zip(*answers))
    error = calibration_error(p, right)
    assert 0 <= error <= 100
    assert error >= abs(100 * (p.mean() - right.mean())) - 1e-9  # one bin is the most forgiving
    order = random.sample(range(len(p)), len(p))
    assert calibration_error(p[order], right[order]) == pytest.approx(error)
    rows = reliability(p, right)
    assert sum(row["answers"] for row in rows) == len(p)
    assert all(row["low"] - 1e-9 <= row["confidence"] <= row["high"] + 1e-9 for row in rows)
    assert calibration_error(right.astype(float), right) == 0


def test_nothing_answered():
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, bool))) and reliability([], []) == []
    assert fit_temperature(np.zeros(0), np.zeros(0, bool)) == 1.0


def test_the_true_temperature_is_found_and_none_is_better():
    rng = np.random.default_rng(1)
    u = rng.exponential(2.0, 20000)
    right = rng.random(20000) < np.exp(-u / 3.0)
    fitted = fit_temperature(u, right)
    assert fitted == pytest.approx(3.0, rel=0.05)
    losses = [log_loss(right, probability(u, t)) for t in (fitted, 0.97 * fitted, 1.03 * fitted)]
    assert losses[0] == min(losses)
    assert calibration_error(probability(u, fitted), right) < 2 < calibration_error(probability(u, 1.0), right)


def test_temperature_keeps_the_order_and_extremes_do_not_break_it():
    u = np.array([0.0, 0.5, 3.0, 100.0])
    for right in ([True] * 4, [False] * 4, [True, True, False, False], [False, False, True, True]):
        p = probability(u, fit_temperature(u, np.array(right)))
        assert (np.diff(p) <= 0).all() and (p >= 0).all() and (p <= 1).all()
