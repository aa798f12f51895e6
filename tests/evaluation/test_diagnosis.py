"""Predictions with one fault each; a healthy run has none."""

import numpy as np
import pytest

from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation.diagnosis import FEW, Asked, diagnose
from revision_jax.evaluation.predictions import Prediction

EVENTS, ABSENT, DURATION = 60, 30, 3600.0


def truth(i):
    return 50.0 * i + 100.0, 50.0 * i + 110.0


def asked(answer, *, absent=lambda i: [], held=(), events=EVENTS):
    """Answers of events `i` (moments by `answer`) and of absent ones, over two videos."""
    queries = [Query(f"q{i}", f"v{i % 2}", f"event {i}", (truth(i),)) for i in range(events)]
    queries += [Query(f"a{i}", f"v{i % 2}", f"absent {i}", ()) for i in range(ABSENT)]
    moments = [answer(i) for i in range(events)] + [absent(i) for i in range(ABSENT)]
    predictions = [
        Prediction(q.query_id, np.array(m, float).reshape(-1, 3), None, held) for q, m in zip(queries, moments)
    ]
    return Asked(queries, predictions, [DURATION] * len(queries), 0.5)


def right(i):
    return [(*truth(i), 0.9)]


def wrong(i):
    """Far from the event, each at a place of its own."""
    start, _ = truth((i + 7) % EVENTS)
    return [(start + 20, start + 30, 0.9)]


CASES = {
    "nothing is found at any IoU": asked(wrong),
    "found roughly, not exactly": asked(lambda i: [(truth(i)[0] - 10, truth(i)[1] + 10, 0.9)]),
    "the same false answers": asked(right, absent=lambda i: [(40.0 + i, 60.0 + i, 0.8)]),
    "lost by the search": asked(lambda i: right(i) if i % 2 else [], held=(True, False)),
    "lost by the ranking": asked(lambda i: right(i) if i % 2 else [*wrong(i), (*truth(i), 0.4)], held=(True, True)),
    "lost by the localisation": asked(lambda i: right(i) if i % 3 else wrong(i), held=(True, True)),
    "answers crowd in one part of videos": asked(
        lambda i: right(i) if i < EVENTS / 2 else [(1.0 + i, 2.0 + i, 0.9), (*truth(i), 0.4)]
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_fault_is_named_with_its_numbers_and_a_remedy(name):
    signs = {sign.name: sign for sign in diagnose(CASES[name])}
    assert name in signs
    assert any(letter.isdigit() for letter in signs[name].evidence) and signs[name].remedy
    if "roughly" in name:
        assert "3.00 times" in signs[name].evidence and "100.0 %" in signs[name].evidence
    if "false" in name:
        assert "100.0 % of 30" in signs[name].evidence and len(signs) == 1
    if "search" in name:
        assert "50.0 % by the search, 0.0 % by the ranking" in signs[name].evidence


def test_one_moment_that_answers_a_whole_video():
    signs = diagnose(asked(lambda i: [(500.0, 520.0, 0.9)] if i % 2 else right(i)))
    found = next(sign for sign in signs if sign.name == "the same false answers")
    assert "In 'v1' the moment 500 to 520 s" in found.evidence


def test_a_healthy_run_and_a_small_one_have_none():
    assert diagnose(asked(right)) == [] == diagnose(asked(wrong, events=FEW - 1))
