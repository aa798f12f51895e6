"""An answer stands alone if an overlapping window sees its moment and does not give it."""

import jax.numpy as jnp
import numpy as np

from revision_jax.search.levels.agreement import stand_alone

WINDOWS = np.array([[0, 64], [32, 96], [64, 128], [96, 160], [0, 0]], np.float32)  # the last is padding


def _alone(answers, asked=(0, 1, 2, 3), near=1, windows=WINDOWS):
    """`answers`: window -> spans in seconds; -> window -> whether each stands alone."""
    count = max(map(len, answers.values()))
    spans = np.full((len(windows), count, 2), -1.0, np.float32)
    for window, rows in answers.items():
        spans[window, : len(rows)] = rows
    found, start, end = spans[..., 0] >= 0, spans[..., 0], spans[..., 1]
    chosen = np.isin(np.arange(len(windows)), asked)
    told = stand_alone(*(jnp.asarray(x)[None] for x in (start, end, found, chosen)), jnp.asarray(windows), near)[0]
    return {window: np.asarray(told)[window, : len(rows)].tolist() for window, rows in answers.items()}


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
