"""Is a confidence a probability? Letters: N answers, B bins.

A confidence orders answers; `exp(-u / T)` makes it a probability, where u >= 0 is how unsure it is (nats; see
`search.confidence`) and the temperature T is fitted on validation answers. One parameter, and monotone: ranks never
change. At T = 1 the sequence likelihood is the probability that the model itself gives to its answer.
"""

import numpy as np
from scipy.optimize import minimize_scalar

BINS = 10
TEMPERATURES = (1e-4, 1e4)


def probability(uncertainty: np.ndarray, temperature: float) -> np.ndarray:
    """`[N]` -> `[N]` in [0, 1]."""
    return np.exp(-np.maximum(np.asarray(uncertainty, np.float64), 0.0) / temperature)


def fit_temperature(uncertainty: np.ndarray, right: np.ndarray) -> float:
    """The temperature with the least negative log-likelihood of which answers were right.

    Args:
      uncertainty: `[N]`, at least 0.
      right: `[N]` bool.

    Returns:
      within `TEMPERATURES`; 1 without any answer.
    """
    uncertainty, right = np.asarray(uncertainty, np.float64), np.asarray(right, bool)
    if not len(right):
        return 1.0

    def loss(log_temperature: float) -> float:
        log_p = -np.maximum(uncertainty, 1e-9) / np.exp(log_temperature)
        return -float(np.sum(np.where(right, log_p, np.log(-np.expm1(log_p)))))

    low, high = np.log(TEMPERATURES)
    # The loss has one minimum in log T; a grid finds the bracket that the search needs.
    grid = np.linspace(low, high, 200)
    best = grid[int(np.argmin([loss(x) for x in grid]))]
    step = grid[1] - grid[0]
    found = minimize_scalar(loss, bounds=(max(best - step, low), min(best + step, high)), method="bounded")
    return float(np.exp(found.x))


def reliability(probabilities: np.ndarray, right: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """Bins of equal width, `(low, high]` (the first holds 0 too): answers, their mean probability and share of right.

    Percentages; bins without answers are left out.
    """
    probabilities, right = np.asarray(probabilities, np.float64), np.asarray(right, bool)
    place = np.clip(np.ceil(probabilities * bins).astype(int) - 1, 0, bins - 1)
    return [
        {
            "low": 100.0 * i / bins,
            "high": 100.0 * (i + 1) / bins,
            "answers": int(np.sum(place == i)),
            "confidence": float(100.0 * probabilities[place == i].mean()),
            "accuracy": float(100.0 * right[place == i].mean()),
        }
        for i in range(bins)
        if np.any(place == i)
    ]


def calibration_error(probabilities: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """ECE in percent: |accuracy - confidence| of the bins, weighted by their answers; NaN without answers."""
    rows = reliability(probabilities, right, bins)
    total = sum(row["answers"] for row in rows)
    gaps = sum(row["answers"] * abs(row["accuracy"] - row["confidence"]) for row in rows)
    return gaps / total if total else float("nan")
