"""What became of each query: found, lost in the search, in a wrong place, refused; and the sums in plain words."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from revision_jax.metrics.grounding import best_iou
from revision_jax.report.plots import Timeline

THETA = 0.3  # IoU above which an answer is right
TOP = 5  # answers that are looked at
# Outcome -> what it says; failures first, and in this order the page lists them.
OUTCOMES = {
    "not asked": "the query could not be asked",
    "lost in the search": "an upper level sent no window down that holds the event",
    "no answer": "the event happens, and no window answered",
    "wrong place": f"the event was looked at, and none of the first {TOP} answers is right",
    "right, not first": f"one of the answers 2 to {TOP} is right",
    "kept back": "the first answer is right, and less sure than the threshold",
    "false alarm": "the event never happens, and an answer is as sure as the threshold",
    "found": "the first answer is right",
    "rightly refused": "the event never happens, and no answer is as sure as the threshold",
}
FIRST_RIGHT = ("found", "kept back")


def overlaps(case: Timeline) -> np.ndarray:
    """IoU `[<= TOP]` of the first answers with the true moment that fits each best; empty for an absent event."""
    return best_iou(case.moments[:TOP], case.truth) if case.truth and len(case.moments) else np.zeros(0)


def outcome(case: Timeline) -> str:
    """A key of `OUTCOMES`."""
    sure = len(case.moments) > 0 and case.moments[0][2] >= case.threshold
    if case.error:
        return "not asked"
    if not case.truth:
        return "false alarm" if sure else "rightly refused"
    right = overlaps(case) > THETA
    if len(right) and right[0]:
        return "found" if sure else "kept back"
    if right.any():
        return "right, not first"
    if not all(case.held):
        return "lost in the search"
    return "wrong place" if len(right) else "no answer"


def counted(cases: Sequence[Timeline]) -> Counter[str]:
    """Outcome -> queries."""
    return Counter(map(outcome, cases))


def failures_first(cases: Sequence[Timeline]) -> list[Timeline]:
    """In the order of `OUTCOMES`; within one outcome the surest answers first."""
    order = {name: i for i, name in enumerate(OUTCOMES)}
    sure = lambda case: -case.moments[0][2] if len(case.moments) else 0.0
    return sorted(cases, key=lambda case: (order[outcome(case)], sure(case)))


def in_words(cases: Sequence[Timeline]) -> str:
    """One or two sentences: how many events are found, how near, and how often an absent one is refused."""
    counts = counted(cases)
    present = sum(bool(case.truth) for case in cases)
    absent, told = len(cases) - present, []
    if present:
        hits = sum(counts[name] for name in FIRST_RIGHT)
        told.append(f"Finds {hits} of {present} events with its first answer{_of_100(hits, present)}")
        starts = start_errors(cases)
        if len(starts):
            told[-1] += f"; half of these begin within {np.median(np.abs(starts)):.1f} s of the event"
    if absent:
        right = counts["rightly refused"]
        told.append(f"Says “not there” rightly {right} of {absent} times{_of_100(right, absent)}")
    return ". ".join(told) + "." if told else ""


def _of_100(part: int, whole: int) -> str:
    return "" if whole == 100 else f" ({100 * part / whole:.0f} of 100)"


def start_errors(cases: Sequence[Timeline]) -> np.ndarray:
    """Seconds `[N]` by which right first answers begin late (early: negative)."""
    return _errors(cases)[:, 0]


def _errors(cases: Sequence[Timeline]) -> np.ndarray:
    """`[N, 3]` of right first answers: seconds that the start is late, the end is late, and the ratio of lengths."""
    rows = []
    for case in cases:
        if outcome(case) not in FIRST_RIGHT:
            continue
        start, end, _ = case.moments[0]
        fits = [best_iou([case.moments[0]], [truth])[0] for truth in case.truth]
        true_start, true_end = case.truth[int(np.argmax(fits))]
        rows.append((start - true_start, end - true_end, (end - start) / max(true_end - true_start, 1e-6)))
    return np.array(rows, np.float64).reshape(-1, 3)


def loss_rows(cases: Sequence[Timeline]) -> list[list[str]]:
    """Rows (outcome, what it says, queries, percent of its kind); outcomes of no query are left out."""
    counts, present = counted(cases), sum(bool(case.truth) for case in cases)
    rows = []
    for name, says in OUTCOMES.items():
        whole = len(cases) - present if name in ("false alarm", "rightly refused") else present
        if counts[name]:
            rows.append([name, says, str(counts[name]), f"{100 * counts[name] / max(whole, 1):.1f}"])
    return rows


def localisation_rows(cases: Sequence[Timeline]) -> list[list[str]]:
    """Rows (of right first answers, 10 %, median, 90 %): how far starts and ends are off, and lengths."""
    errors = _errors(cases)
    if not len(errors):
        return []
    names = ("start late by (s)", "end late by (s)", "length, of the event's")
    quantiles = np.quantile(errors, (0.1, 0.5, 0.9), axis=0)
    return [[name, *(f"{value:.2f}" for value in column)] for name, column in zip(names, quantiles.T, strict=True)]
