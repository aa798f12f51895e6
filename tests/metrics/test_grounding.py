import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, recall_score, roc_auc_score

from revision_jax.metrics.grounding import (
    auroc,
    choose_threshold,
    grounding_scores,
    iou,
    mean_iou,
    recall_at_k,
    rejection,
)


def _random_case(seed, queries=40):
    rng = np.random.default_rng(seed)

    def spans(n):
        start = rng.integers(0, 20, n)
        return np.stack([start, start + rng.integers(1, 9, n)], axis=1).astype(float)

    predictions = [
        np.concatenate([spans(n), -np.sort(-rng.random((n, 1)), axis=0)], axis=1) for n in rng.integers(0, 60, queries)
    ]
    return predictions, [list(map(tuple, spans(n))) for n in rng.integers(1, 4, queries)]


def _slow_iou(a, b):
    """By counting tenths of seconds, for spans on whole seconds."""
    inside = lambda s, t: s[0] <= t < s[1]
    times = np.arange(0, 60, 0.1) + 0.05
    both = sum(inside(a, t) and inside(b, t) for t in times)
    hull = sum(min(a[0], b[0]) <= t < max(a[1], b[1]) for t in times)
    return both / hull


def test_iou_equals_counting():
    predictions, truths = _random_case(0)
    for moments, truth in zip(predictions[:6], truths):
        expected = [[_slow_iou(a, b) for b in truth] for a in moments]
        np.testing.assert_allclose(iou(moments, truth), np.reshape(expected, (len(moments), len(truth))), atol=1e-9)


@pytest.mark.parametrize("inequality", ["mad", "ge"])
def test_recall_and_mean_iou_equal_brute_force(inequality):
    predictions, truths = _random_case(1)
    scores = recall_at_k(predictions, truths, inequality=inequality)
    assert set(scores) == {f"R{k}@{t}" for k in (1, 5, 10, 50) for t in (0.1, 0.3, 0.5, 0.7, 0.9)}
    for name, score in scores.items():
        k, theta = int(name[1:].split("@")[0]), float(name.split("@")[1])
        hits = 0
        for moments, truth in zip(predictions, truths):
            overlaps = [float(iou(m[None], [t])[0, 0]) for m in moments[:k] for t in truth]
            hits += any(o > theta if inequality == "mad" else o >= theta for o in overlaps)
        assert score == pytest.approx(100 * hits / len(truths))
    first = [
        max((float(iou(m[:1], [t])[0, 0]) for t in truth), default=0) if len(m) else 0
        for m, truth in zip(predictions, truths)
    ]
    assert mean_iou(predictions, truths) == pytest.approx(100 * np.mean(first))


def test_the_two_inequalities_differ_at_the_threshold():
    prediction, truth = [np.array([[0.0, 5.0, 1.0]])], [[(0.0, 10.0)]]  # IoU is 0.5 to the bit
    assert recall_at_k(prediction, truth, inequality="mad")["R1@0.5"] == 0
    assert recall_at_k(prediction, truth, inequality="ge")["R1@0.5"] == 100


def test_every_query_stays_in_the_denominator():
    hit, nothing = np.array([[0.0, 10.0, 1.0]]), np.zeros((0, 3))
    truths = [[(0.0, 10.0)]] * 4
    assert recall_at_k([hit, nothing, nothing, nothing], truths)["R50@0.1"] == 25
    assert mean_iou([hit, nothing, nothing, nothing], truths) == 25
    with pytest.raises(ValueError, match="3 predictions for 4 queries"):
        recall_at_k([hit] * 3, truths)


def test_absent_queries_are_scored_by_rejection_only():
    hit, nothing = np.array([[0.0, 10.0, 0.9]]), np.zeros((0, 3))
    scores = grounding_scores([hit, hit, nothing], [[(0.0, 10.0)], [], []], threshold=0.5)
    assert scores["recall"]["mad"]["R1@0.9"] == 100
    assert (scores["present"], scores["absent"]) == (1, 2)
    assert scores["rejection"]["false_alarm_rate"] == 50
    assert scores["rejection"]["precision"] == 100
    assert scores["rejection"]["f1"] == pytest.approx(100 * 2 / 3)


def test_rejection_and_auroc_equal_brute_force():
    rng = np.random.default_rng(2)
    scores, present = rng.integers(0, 5, 50).astype(float), rng.random(50) < 0.6
    scores[:5] = -np.inf
    result = rejection(scores, present, 2.0)
    rejected = [not s >= 2.0 for s in scores]
    assert result["precision"] == pytest.approx(
        100 * sum(r and not p for r, p in zip(rejected, present)) / sum(rejected)
    )
    assert result["recall"] == pytest.approx(100 * sum(r and not p for r, p in zip(rejected, present)) / sum(~present))
    assert result["accepted"] == pytest.approx(100 * sum(not r and p for r, p in zip(rejected, present)) / sum(present))
    pairs = [(a > b) + (a == b) / 2 for a in scores[present] for b in scores[~present]]
    assert auroc(scores, present) == pytest.approx(100 * np.mean(pairs))


def test_threshold_is_the_best_one_that_keeps_false_alarms_low():
    rng = np.random.default_rng(3)
    present = rng.random(200) < 0.7
    scores = rng.normal(np.where(present, 1.0, 0.0))
    scores[:10] = -np.inf
    threshold = choose_threshold(scores, present, max_false_alarm=10.0)
    best = rejection(scores, present, threshold)
    assert best["false_alarm_rate"] <= 10
    for other in np.linspace(-3, 4, 500):
        result = rejection(scores, present, other)
        if result["false_alarm_rate"] <= 10:
            assert result["balanced_accuracy"] <= best["balanced_accuracy"] + 1e-9


def test_threshold_without_absent_queries_rejects_nothing_that_was_found():
    scores = np.array([0.2, 5.0, -np.inf])
    threshold = choose_threshold(scores, np.ones(3, bool))
    assert (scores >= threshold).tolist() == [True, True, False]
    nothing_present = choose_threshold(scores, np.zeros(3, bool))
    assert not (scores >= nothing_present).any()


# Whole seconds: ties, duplicates and spans without a length are frequent.
SPAN = st.tuples(st.integers(0, 20), st.integers(0, 6)).map(lambda x: (float(x[0]), float(x[0] + x[1])))
QUERY = st.tuples(st.lists(SPAN, max_size=8), st.lists(SPAN, min_size=1, max_size=3))


def _arrays(queries):
    predictions = [np.array([(*span, -i) for i, span in enumerate(found)]).reshape(-1, 3) for found, _ in queries]
    return predictions, [truth for _, truth in queries]


@settings(max_examples=100, deadline=None)
@given(st.lists(QUERY, min_size=1, max_size=8), st.randoms(), st.integers(0, 1000))
def test_recall_invariants(queries, random, shift):
    scores = recall_at_k(*_arrays(queries))
    again = lambda changed: recall_at_k(*_arrays(changed))
    assert again(random.sample(queries, len(queries))) == pytest.approx(scores)
    move = lambda spans: [(s + shift, e + shift) for s, e in spans]
    assert again([(move(found), move(truth)) for found, truth in queries]) == pytest.approx(scores)
    assert again([(found, truth[::-1] * 2) for found, truth in queries]) == pytest.approx(scores)
    for theta in (0.1, 0.3, 0.5, 0.7, 0.9):
        in_rank = [scores[f"R{k}@{theta}"] for k in (1, 5, 10, 50)]
        assert in_rank == sorted(in_rank)
    for k in (1, 5, 10, 50):
        in_theta = [scores[f"R{k}@{theta}"] for theta in (0.1, 0.3, 0.5, 0.7, 0.9)]
        assert in_theta == sorted(in_theta, reverse=True)
    greater_equal = recall_at_k(*_arrays(queries), inequality="ge")
    assert all(greater_equal[name] >= score for name, score in scores.items())


def test_rounding_is_a_setting():
    prediction, truth = [np.array([[0.0, 4.96, 1.0]])], [[(0.0, 10.0)]]  # IoU 0.496
    assert recall_at_k(prediction, truth, inequality="ge")["R1@0.5"] == 0
    assert recall_at_k(prediction, truth, inequality="ge", decimals=2)["R1@0.5"] == 100
    assert mean_iou(prediction, truth) == pytest.approx(49.6) and mean_iou(prediction, truth, 2) == 50
    assert grounding_scores(prediction, truth, 0.0, decimals=2)["mean_iou"] == 50


@pytest.mark.parametrize("seed", range(5))
def test_rejection_equals_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    scores, present = rng.integers(0, 6, 80).astype(float), rng.random(80) < 0.6
    scores[rng.random(80) < 0.1] = -np.inf
    absent, rejected = ~present, scores < 3
    found = rejection(scores, present, 3.0)
    expected = {
        "precision": precision_score(absent, rejected),
        "recall": recall_score(absent, rejected),
        "f1": f1_score(absent, rejected),
        "false_alarm_rate": 1 - recall_score(absent, rejected),
        "accepted": recall_score(present, ~rejected),
        "balanced_accuracy": balanced_accuracy_score(absent, rejected),
        "auroc": roc_auc_score(present, np.where(np.isfinite(scores), scores, -1e9)),
    }
    assert found == pytest.approx({name: 100 * value for name, value in expected.items()})
