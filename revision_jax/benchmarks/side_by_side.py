"""Programs timed side by side: each in turn, several rounds, so that whatever else runs meets all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Program(NamedTuple):
    """What is timed.

    Attributes:
      run: does the work, and returns when it is done.
      units: of work in one call; times are told a unit.
      ready: called right before each call, and not timed.
    """

    run: Callable[[], Any]
    units: int = 1
    ready: Callable[[], Any] | None = None


class Claim(NamedTuple):
    """What a comparison says: about which work, in milliseconds of which unit, by which of the programs as ours."""

    work: str
    unit: str
    ours: str


def take_turns(programs: Mapping[str, Program], repeat: int, rest_s: float = 0.0) -> dict[str, np.ndarray]:
    """Seconds a unit of every program in every round: name -> `[repeat]` float64.

    A round before the first is not counted: it compiles, and fills caches. Every other round goes backwards, so that
    no program always comes after the same one.

    Args:
      rest_s: seconds of sleep before each call, in which threads of the program before come to rest.

    Raises:
      ValueError: no round is asked for.
    """
    if repeat < 1:
        raise ValueError(f"--repeat is {repeat}; expected rounds, at least 1")
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(repeat + 1):
        for name in list(programs)[:: -1 if number % 2 else 1]:
            program = programs[name]
            time.sleep(rest_s)
            if program.ready is not None:
                program.ready()
            started = time.perf_counter()
            program.run()
            seconds[name].append((time.perf_counter() - started) / program.units)
    return {name: np.array(found[1:]) for name, found in seconds.items()}


def compare(claim: Claim, seconds: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A row for each program that is not ours.

    `ours` and `peer` are milliseconds a unit. `ratio` is the peer's time over ours, round by round: above 1, ours is
    the faster one.
    """
    own = seconds[claim.ours]
    return [
        {
            "work": claim.work,
            "unit": claim.unit,
            "ours_is": claim.ours,
            "peer_is": name,
            "rounds": len(own),
            "ours": _spread(1e3 * own),
            "peer": _spread(1e3 * found),
            "ratio": _spread(found / own),
        }
        for name, found in seconds.items()
        if name != claim.ours
    ]


def _spread(values: np.ndarray) -> dict[str, float]:
    """Median, least and most, to four digits."""
    named = {"median": np.median(values), "least": values.min(), "most": values.max()}
    return {name: float(f"{value:.4g}") for name, value in named.items()}
