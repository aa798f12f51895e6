"""Bootstrap confidence intervals of means over queries (percentile method).

Queries are drawn with replacement, each as a whole. Those of one video are not independent: with few videos the true
uncertainty about other videos is larger than such an interval.
"""

from collections.abc import Mapping

import numpy as np

SAMPLES, LEVEL = 1000, 95.0
_CHUNK = 100  # samples drawn at a time: memory does not grow with their number


def mean_intervals(
    values: Mapping[str, np.ndarray], *, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, list[float]]:
    """Name -> [low, high] of the mean of its values.

    Args:
      values: name -> `[Q]`, one value a query, the same queries for every name: all names share the draws, so that
        intervals of differences are paired. NaN: the query does not count there.
      samples: draws.
      level: percent of the draws between low and high.
    """
    if not values:
        return {}
    table = np.stack([np.asarray(column, np.float64) for column in values.values()], axis=1)  # [Q, names]
    counts = np.isfinite(table).astype(np.float64)
    filled = np.where(counts > 0, table, 0.0)
    rng, queries, means = np.random.default_rng(seed), len(table), []
    for first in range(0, samples, _CHUNK):
        draws = rng.multinomial(queries, np.full(queries, 1.0 / queries), size=min(_CHUNK, samples - first))
        with np.errstate(invalid="ignore"):
            means.append((draws @ filled) / (draws @ counts))
    tail, intervals = (100.0 - level) / 2, {}
    for name, column in zip(values, np.concatenate(means).T):
        column = column[np.isfinite(column)]  # a draw may hold none of the queries that count
        interval = np.percentile(column, [tail, 100.0 - tail]) if len(column) else (np.nan, np.nan)
        intervals[name] = list(map(float, interval))
    return intervals
