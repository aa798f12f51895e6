"""How sure a mean over seeds is: intervals of 95 % that count both the seeds and the queries.

Seeds differ in what was trained, queries in what was asked; all seeds are asked the same queries, so that more seeds do
not make up for few queries. Both half widths are added in squares.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.95


class Spread(NamedTuple):
    """A mean and its interval; `low` and `high` are None where nothing says how sure it is."""

    mean: float
    low: float | None
    high: float | None


def wilson(percent: float, count: int) -> tuple[float, float]:
    """Wilson's interval, in percent, of a share of so many queries; it has a width at 0 and at 100, too."""
    z, share = stats.norm.ppf((1 + LEVEL) / 2), percent / 100.0
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    low, high = ((centre + sign * half) / (1 + z * z / count) for sign in (-1, 1))
    return 100.0 * max(low, 0.0), 100.0 * min(high, 1.0)


def over_seeds(
    values: Sequence[float], bounds: Sequence[tuple[float, float] | None], most: float = math.inf
) -> Spread:  # fmt: skip
    """The mean of a value a seed, with its interval.

    Args:
      values: none of them is below 0.
      bounds: interval of each value over queries, or None where there is none.
      most: what no value can be above. The interval ends there, and at 0.
    """
    mean, known = float(np.mean(values)), [pair for pair in bounds if pair is not None]
    if len(values) < 2 and not known:
        return Spread(mean, None, None)
    seeds = 0.0
    if len(values) > 1:
        seeds = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    below = np.mean([value - pair[0] for value, pair in zip(values, bounds) if pair]) if known else 0.0
    above = np.mean([pair[1] - value for value, pair in zip(values, bounds) if pair]) if known else 0.0
    return Spread(mean, max(mean - math.hypot(seeds, below), 0.0), min(mean + math.hypot(seeds, above), most))
