import numpy as np
import pytest

from revision_jax.metrics.precision import THETAS, average_precision, precision_values

A, B = (0.0, 10.0), (20.0, 32.0)
FOUND = np.array([[0, 8.2, 4.0], [50, 60, 3.0], [20, 30, 2.0], [0, 10, 1.0]])  # IoU .82 of A, 0, .833 of B, 1 of A


def test_a_case_worked_out_by_hand():
    """Up to IoU .8 the first and third moments are right: (1/1 + 2/3) / 2. From .85 on the fourth alone: (1/4) / 2."""
    np.testing.assert_allclose(average_precision(FOUND, [A, B]), [5 / 6] * 7 + [1 / 8] * 3)
    values = precision_values([FOUND, FOUND], [[A, B], []])
    assert values["mAP@0.5"][0] == values["mAP@0.75"][0] == pytest.approx(500 / 6)
    assert values["mAP"][0] == pytest.approx((7 * 500 / 6 + 3 * 12.5) / 10) and np.isnan(values["mAP"][1])


def test_precision_is_interpolated_and_a_true_moment_is_found_once():
    miss, twice = [50.0, 60.0], [0.0, 9.9]
    assert average_precision(np.array([miss, A, B]), [A, B])[0] == pytest.approx(2 / 3)  # not (1/2 + 2/3) / 2
    assert average_precision(np.array([A, twice, B]), [A, B])[0] == pytest.approx((1 + 2 / 3) / 2)
    # The second moment overlaps A most; A is taken, and B is near enough.
    near = [(0.0, 10.0), (1.0, 11.0)]
    np.testing.assert_allclose(average_precision(np.array([[0.0, 10.0], [0.1, 10.0]]), near)[:2], 1.0)


def test_ten_moments_count_and_none_is_a_miss():
    misses = [[50.0, 60.0]] * 9
    assert average_precision(np.array([*misses, A]), [A])[-1] == pytest.approx(0.1)
    assert average_precision(np.array([*misses, misses[0], A]), [A]).tolist() == [0.0] * len(THETAS)
    assert average_precision(np.zeros((0, 3)), [A]).tolist() == [0.0] * len(THETAS)
