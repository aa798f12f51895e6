"""Presence and intervals, by hand."""

import math

import pytest

from revision_jax.metrics.answers import interval_scores, presence_scores


def test_presence_is_balanced_and_tells_near_misses_apart():
    kinds = ["present"] * 2 + ["absent"] * 3 + ["near miss"]
    scores = presence_scores([True, False, False, False, False, True], kinds)
    assert scores["accuracy"] == pytest.approx((50 + 75) / 2) and scores["windows"] == 6
    assert scores["present"] == {"right": 50.0, "windows": 2}
    assert scores["absent"] == {"right": 100.0, "windows": 3}
    assert scores["near miss"] == {"right": 0.0, "windows": 1}


def test_always_yes_is_worth_half():
    assert presence_scores([True] * 4, ["present", "absent", "absent", "near miss"])["accuracy"] == 50


def test_intervals_by_hand():
    named = [(2, 4), (0, 4), (5, 6), (0, 2)]
    truth = [(2, 4), (2, 5), (5, 8), (2, 4)]  # the last only touch
    scores = interval_scores(named, truth)
    assert scores["exact"] == 25 and scores["found"] == 75 and scores["groups"] == 4
    assert scores["iou"] == pytest.approx(100 * (1 + 2 / 5 + 1 / 3 + 0) / 4)
    assert scores["hit_rate"] == pytest.approx(100 * (2 + 2 + 1 + 0) / (2 + 4 + 1 + 2))


def test_nothing_has_no_score():
    assert math.isnan(interval_scores([], [])["iou"]) and math.isnan(presence_scores([], [])["accuracy"])
