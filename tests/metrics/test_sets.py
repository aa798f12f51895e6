import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from revision_jax.metrics.grounding import iou
from revision_jax.metrics.sets import matched_iou, set_f1, set_values, union_iou

# Whole seconds, so that ties, duplicates and touching spans are frequent; some spans have no length.
SPAN = st.tuples(st.integers(0, 12), st.integers(0, 5)).map(lambda x: (float(x[0]), float(x[0] + x[1])))
SPANS = st.lists(SPAN, max_size=5)


def _all_matchings(found, truth):
    """Every largest one-to-one matching, as lists of IoU."""
    few, many = sorted((found, truth), key=len)
    for chosen in itertools.permutations(range(len(many)), len(few)):
        yield [float(iou([few[i]], [many[j]])[0, 0]) for i, j in enumerate(chosen)]


@settings(max_examples=150, deadline=None)
@given(SPANS, SPANS, st.sampled_from([0.3, 0.5, 0.7]))
def test_matching_equals_trying_all(found, truth, theta):
    matchings = list(_all_matchings(found, truth))
    best = max(map(sum, matchings))
    assert matched_iou(found, truth).sum() == pytest.approx(best)
    # Several matchings may be best; ours is one of them.
    right = {sum(o >= theta for o in m) for m in matchings if sum(m) == pytest.approx(best)}
    total = len(found) + len(truth)
    assert set_f1(found, truth, theta) in [2 * n / total if total else 1.0 for n in right]


def _ticks(spans):
    """Tenths of a second inside any of the spans, for spans on whole seconds."""
    return {tick for start, end in spans for tick in range(round(10 * start), round(10 * end))}


@settings(max_examples=150, deadline=None)
@given(SPANS, SPANS)
def test_union_iou_equals_counting_tenths(found, truth):
    a, b = _ticks(found), _ticks(truth)
    assert union_iou(found, truth) == pytest.approx(len(a & b) / len(a | b) if a | b else 1.0)


def test_of_equal_matchings_the_one_with_most_right_pairs_counts():
    found, truth = [(2.0, 3.0), (2.0, 4.0)], [(2.0, 4.0), (3.0, 4.0)]  # 1 + 0, or 0.5 + 0.5
    for order in (1, -1):
        assert set_f1(found[::order], truth, 0.5) == set_f1(truth, found[::order], 0.5) == 1.0


@settings(max_examples=100, deadline=None)
@given(SPANS, SPANS, st.randoms(), st.integers(0, 50))
def test_order_and_origin_do_not_matter(found, truth, random, shift):
    f1, union = set_f1(found, truth, 0.5), union_iou(found, truth)
    assert (set_f1(truth, found, 0.5), union_iou(truth, found)) == pytest.approx((f1, union))
    shuffled = [random.sample(spans, len(spans)) for spans in (found, truth)]
    moved = [[(s + shift, e + shift) for s, e in spans] for spans in shuffled]
    assert union_iou(*moved) == pytest.approx(union)
    assert matched_iou(*moved).sum() == pytest.approx(matched_iou(found, truth).sum())
    assert union_iou(found + found, truth) == pytest.approx(union)
    assert 0 <= f1 <= 1 and 0 <= union <= 1
    assert set_f1(found, truth, 0.3) >= set_f1(found, truth, 0.7)


def test_empty_sets_and_absent_queries():
    found = [np.zeros((0, 3)), np.array([[0.0, 4.0, 0.9]]), np.array([[0.0, 4.0, 0.9]]), np.zeros((0, 3))]
    truths = [[], [], [(0.0, 4.0)], [(0.0, 4.0)]]
    values = set_values(found, truths)
    assert values["count_accuracy"].tolist() == [100, 0, 100, 0]
    np.testing.assert_array_equal(values["F1@0.5"], [np.nan, np.nan, 100, 0])
    np.testing.assert_array_equal(values["union_iou"], [np.nan, np.nan, 100, 0])
    assert set_f1([], [], 0.5) == 1 and set_f1([(0, 1)], [], 0.5) == 0 and union_iou([(3, 3)], []) == 1
    with pytest.raises(ValueError):
        set_values(found, truths[:3])
