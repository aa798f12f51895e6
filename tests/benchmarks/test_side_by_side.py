"""Turns: who is called when, what is counted, and what a comparison says of it."""

import numpy as np
import pytest

from revision_jax.benchmarks import side_by_side
from revision_jax.benchmarks.side_by_side import Claim, Program, compare, take_turns


@pytest.fixture
def clock(monkeypatch):
    """A clock that programs move; what they do, in order."""
    clock = type("Clock", (), {"now": 0.0, "calls": []})()
    monkeypatch.setattr(side_by_side.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(side_by_side.time, "sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))
    return clock


def test_rounds_go_there_and_back_and_the_first_is_not_counted(clock):
    lasts = {"a": iter([100, 2, 3, 4]), "b": iter([100, 8, 6, 4])}

    def program(name, units):
        def run():
            clock.calls.append(name)
            clock.now += next(lasts[name])

        def ready():
            clock.calls.append(f"{name} ready")
            clock.now += 50

        return Program(run, units, ready if name == "b" else None)

    seconds = take_turns({"a": program("a", 1), "b": program("b", 2)}, repeat=3, rest_s=7.0)
    assert clock.calls == ["a", "b ready", "b", "b ready", "b", "a"] * 2
    np.testing.assert_array_equal(seconds["a"], [2, 3, 4])
    np.testing.assert_array_equal(seconds["b"], [4, 3, 2])


def test_a_comparison_is_round_by_round():
    seconds = {"other": np.array([0.004, 0.003, 0.002]), "ours": np.array([0.002, 0.003, 0.004]), "slow": np.ones(3)}
    fast, slow = compare(Claim("work", "ms a piece", "ours"), seconds)
    assert (fast["work"], fast["unit"], fast["ours_is"], fast["peer_is"]) == ("work", "ms a piece", "ours", "other")
    assert fast["rounds"] == 3 and fast["ours"] == {"median": 3.0, "least": 2.0, "most": 4.0}
    assert fast["ratio"] == {"median": 1.0, "least": 0.5, "most": 2.0}
    assert slow["peer"]["median"] == 1000.0 and slow["ratio"]["median"] == 333.3


def test_no_round_is_refused():
    with pytest.raises(ValueError, match="--repeat is 0; expected rounds, at least 1"):
        take_turns({}, 0)
