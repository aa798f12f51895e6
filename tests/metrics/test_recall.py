import numpy as np
import pytest

from revision_jax.metrics.recall import holds_event, search_recall


@pytest.mark.parametrize("windows, moments, held", [
    ([[0, 64], [64, 128]], [(60, 70)], True),  # 6 of 10 s in the second
    ([[0, 64]], [(60, 70)], False),  # 4 of 10 s
    ([[0, 64]], [(59, 69)], False),  # exactly half is not more than half
    ([[0, 64], [64, 128]], [(59, 69)], False),
    ([[0, 64]], [(500, 510), (10, 20)], True),  # any of its moments
    ([[0, 64]], [(-100, 300)], False),  # longer than two windows
    (np.zeros((0, 2)), [(0, 1)], False),
    ([[0, 64]], [], False),
])  # fmt: skip
def test_a_window_holds_more_than_half_of_an_event(windows, moments, held):
    assert holds_event(np.array(windows), moments) is held


def test_recall_is_over_all_queries_at_each_level():
    assert search_recall([(True, True), (True, False), (), (False, False)]) == [50.0, 25.0]
    assert search_recall([]) == [] and search_recall([(), ()]) == []
