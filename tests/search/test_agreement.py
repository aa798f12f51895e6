"""An answer stands alone if an overlapping window sees its moment and does not give it."""

import jax.numpy as jnp
import numpy as np

from revision_jax.search.levels.agreement import Spans, could_verify, stand_alone

WINDOWS = np.array([[0, 64], [32, 96], [64, 128], [96, 160], [0, 0]], np.float32)  # the last is padding


def _spans(answers, asked, windows):
    """`answers`: window -> spans in seconds with a confidence behind, or none: 1; -> `Spans` and the pairs asked."""
    spans = np.zeros((1, len(windows), max(map(len, answers.values())), 3), np.float32)
    for window, rows in answers.items():
        for place, row in enumerate(rows):
            spans[0, window, place] = (*row, 1.0)[:3]
    start, end, sure = map(jnp.asarray, np.moveaxis(spans, -1, 0))
    return Spans(start, end, sure > 0, sure), jnp.isin(jnp.arange(len(windows)), jnp.asarray(asked))[None]


def _alone(answers, asked=(0, 1, 2, 3), near=1, windows=WINDOWS):
    """-> window -> whether each of its answers stands alone."""
    told = stand_alone(*_spans(answers, asked, windows), jnp.asarray(windows), near)[0]
    return {window: np.asarray(told)[window, : len(rows)].tolist() for window, rows in answers.items()}


def _verify(answers, asked, near=1, windows=WINDOWS):
    """-> window -> how sure an answer it could verify, of those that could verify one."""
    best = np.asarray(could_verify(*_spans(answers, asked, windows), jnp.asarray(windows), near)[0])
    return {window: round(float(sure), 2) for window, sure in enumerate(best) if sure > 0}


def test_two_windows_that_give_the_same_moment_agree():
    assert _alone({0: [(40, 50)], 1: [(41, 52)]}) == {0: [False], 1: [False]}


def test_a_moment_that_the_other_window_does_not_give_stands_alone():
    assert _alone({0: [(40, 50)]}) == {0: [True]}
    assert _alone({0: [(40, 50)], 1: [(70, 80)]}) == {0: [True], 1: [True]}  # windows 1 and 2 see 70 to 80


def test_a_moment_that_no_other_window_sees_or_was_asked_about_does_not():
    assert _alone({0: [(5, 15)]}) == {0: [False]}
    assert _alone({0: [(40, 50)]}, asked=(0, 2, 3)) == {0: [False]}
    assert _alone({0: [(20, 40)]}) == {0: [False]}  # window 1 sees 8 of its 20 seconds
    assert _alone({0: [(28, 48)]}) == {0: [True]}  # 16 of 20


def test_one_of_two_neighbours_or_one_of_several_answers_is_enough():
    third = np.array([[0, 60], [20, 80], [40, 100]], np.float32)
    answers = {0: [(45, 55)], 1: [(10, 20), (44, 56)]}
    assert _alone(answers, (0, 1, 2), near=2, windows=third)[0] == [False]
    assert _alone({0: [(45, 55)], 2: [(45, 54)]}, (0, 1, 2), near=2, windows=third)[0] == [False]
    assert _alone({0: [(45, 55)], 2: [(45, 54)]}, (0, 1, 2), near=1, windows=third)[0] == [True]


def test_the_last_window_is_no_neighbour_of_the_first():
    circle = np.array([[0, 64], [200, 264], [0, 64]], np.float32)
    assert _alone({0: [(40, 50)]}, (0, 1, 2), windows=circle) == {0: [False]}


def test_a_window_verifies_the_surest_answer_that_it_sees():
    assert _verify({0: [(40, 50, 0.3)], 2: [(100, 110, 0.8)]}, asked=(0, 2)) == {1: 0.3, 3: 0.8}
    assert _verify({0: [(40, 50, 0.3)], 2: [(70, 80, 0.8), (120, 126, 0.1)]}, asked=(0, 2)) == {1: 0.8, 3: 0.1}
    assert _verify({0: [(5, 15, 0.9)]}, asked=(0,)) == {}  # no other window sees it


def test_an_answer_that_another_window_was_asked_about_needs_none():
    assert _verify({1: [(40, 50, 0.9)]}, asked=(0, 1)) == {}
    third = np.array([[0, 60], [20, 80], [40, 100]], np.float32)
    assert _verify({0: [(45, 55, 0.9)]}, asked=(0,), near=2, windows=third) == {1: 0.9, 2: 0.9}
    assert _verify({0: [(45, 55, 0.9)]}, asked=(0, 2), near=2, windows=third) == {}
