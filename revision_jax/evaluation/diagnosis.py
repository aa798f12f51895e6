"""What fails, named from predictions: `evaluate --diagnose`. Percent of queries, seconds.

A signature is a pattern of failures with a likely cause: nothing is found at any IoU; found roughly, not exactly; the
same false answers again and again; lost by the search, the ranking or the localisation; answers in one part of videos.
The bounds below are this project's choice.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import ks_2samp

from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation.predictions import Prediction
from revision_jax.metrics.grounding import best_iou

HIT = 0.3  # IoU above which a moment counts as right here
FEW = 20  # events below which nothing is said of them
NOTHING = 2.0  # percent of events: no more are found, even among the first five answers at IoU .1
COARSE, FINE = 0.1, 0.7
FINE_SHARE = 0.25  # of the events found at IoU .1, those found at .7: fewer are "not exactly"
FALSE_ALARMS = 30.0  # percent of absent events that are answered
REPEATED = 30.0  # percent of a video's queries that one moment answers first
LOST = 20.0  # percent of events that one part of the search loses
CROWDED, CHANCE = 0.2, 0.01  # Kolmogorov-Smirnov distance of places, and how unlikely it is by chance


class Asked(NamedTuple):
    """The queries of a split and their answers, in one order.

    Attributes:
      durations: seconds of each query's video.
      threshold: the least confidence that counts as present.
    """

    queries: Sequence[Query]
    predictions: Sequence[Prediction]
    durations: Sequence[float]
    threshold: float

    @property
    def present(self) -> list[tuple[Query, Prediction, float]]:
        """The events that happen, their answers, and the seconds of their videos."""
        return [row for row in zip(self.queries, self.predictions, self.durations, strict=True) if row[0].present]

    def found(self, theta: float, rank: int = 1) -> float:
        """Percent of the events that happen, found by one of the first `rank` moments at IoU > theta."""
        hits = [any(best_iou(p.moments[:rank], q.moments) > theta) for q, p, _ in self.present]
        return 100.0 * float(np.mean(hits)) if hits else float("nan")


@dataclasses.dataclass(frozen=True)
class Sign:
    """One signature that was found.

    Attributes:
      name: in words; evidence: the numbers that show it; remedy: what to try, a field or a command.
    """

    name: str
    evidence: str
    remedy: str


def diagnose(asked: Asked) -> list[Sign]:
    """The signatures of failure in a method's answers; none where it does well, or where there are too few queries."""
    if len(asked.present) < FEW:
        return []
    nothing = _nothing_found(asked)
    if nothing is not None:
        return [nothing]  # it explains the rest
    return [sign for look in SIGNATURES if (sign := look(asked)) is not None]


def _nothing_found(asked: Asked) -> Sign | None:
    share = asked.found(COARSE, 5)
    if share > NOTHING:
        return None
    return Sign(
        "nothing is found at any IoU",
        f"R5 at IoU {COARSE} is {share:.1f} % of {len(asked.present)} events.",
        "The features are not those that it was trained on, or their clock is wrong: `python -m revision_jax.prepare "
        "check DIR` compares encoder and frame rate. If both are right, it has not learned: look at the loss.",
    )


def _found_roughly(asked: Asked) -> Sign | None:
    coarse, fine = asked.found(COARSE), asked.found(FINE)
    if not coarse or fine >= FINE_SHARE * coarse:
        return None
    ratios = [_length_ratio(q, p) for q, p, _ in asked.present if any(best_iou(p.moments[:1], q.moments) > COARSE)]
    return Sign(
        "found roughly, not exactly",
        f"R1 at IoU {COARSE} is {coarse:.1f} %, at {FINE} {fine:.1f} %; such answers are {np.median(ratios):.2f} times "
        "as long as the events.",
        "Frames are too far apart for these events: lower hierarchy.window_s, or raise hierarchy.num_frames and "
        "data.fps; or annotations differ in where an event ends.",
    )


def _length_ratio(query: Query, prediction: Prediction) -> float:
    """Length of the first answer over that of the true moment that it overlaps most."""
    start, end, _ = prediction.moments[0]
    nearest = max(query.moments, key=lambda moment: best_iou(prediction.moments[:1], [moment])[0])
    return (end - start) / max(nearest[1] - nearest[0], 1e-9)


def _false_answers(asked: Asked) -> Sign | None:
    absent = [p for q, p in zip(asked.queries, asked.predictions, strict=True) if not q.present]
    alarms = [len(p.moments) > 0 and p.moments[0, 2] >= asked.threshold for p in absent]
    rate = 100.0 * float(np.mean(alarms)) if len(absent) >= FEW else 0.0
    video, moment, share = _most_repeated(asked)
    if rate < FALSE_ALARMS and share < REPEATED:
        return None
    evidence = [f"{rate:.1f} % of {len(absent)} absent events are answered."] if rate >= FALSE_ALARMS else []
    if share >= REPEATED:
        start, end = moment
        evidence.append(f"In {video!r} the moment {start:.0f} to {end:.0f} s is the first answer of {share:.0f} %.")
    return Sign(
        "the same false answers",
        " ".join(evidence),
        "Train with more and harder contrastive windows: data.neg_factor, data.near_miss_fraction, data.negatives with "
        "`mined` and these predictions as data.mined.",
    )


def _most_repeated(asked: Asked) -> tuple[str, tuple[float, float], float]:
    """Of the most repeated wrong first answer: its video, itself, and percent of the video's queries it answers."""
    videos: dict[str, list[tuple[float, float] | None]] = {}
    for query, prediction in zip(asked.queries, asked.predictions, strict=True):
        first = prediction.moments[:1]
        wrong = len(first) and not (query.present and best_iou(first, query.moments)[0] > HIT)
        videos.setdefault(query.video_id, []).append((float(first[0, 0]), float(first[0, 1])) if wrong else None)
    worst: tuple[str, tuple[float, float], float] = "", (0.0, 0.0), 0.0
    for video, firsts in videos.items():
        answers = [first for first in firsts if first is not None]
        if len(firsts) < FEW or not answers:
            continue
        moment = max(set(answers), key=answers.count)
        share = 100.0 * answers.count(moment) / len(firsts)
        worst = max(worst, (video, moment, share), key=lambda row: row[2])
    return worst


def _lost_by(asked: Asked) -> Sign | None:
    """Which part loses the events that the first answer misses."""
    searched, ranked, answered = 0, 0, 0
    for query, prediction, _ in asked.present:
        overlaps = best_iou(prediction.moments, query.moments)
        if len(overlaps) and overlaps[0] > HIT:
            continue
        if prediction.held and not prediction.held[-1]:
            searched += 1  # the dense level never saw it
        elif any(overlaps > HIT):
            ranked += 1
        else:
            answered += 1
    remedies = {
        "by the search": "Send more windows down: search.keep; or let similarity choose too: search.policy=fused.",
        "by the ranking": "The right moment is there, another is surer: search.confidence, search.policy="
        "top_down_rescaled, or contrastive windows like those that win (data.negatives with `mined`).",
        "by the localisation": "The dense level saw it and did not answer: train longer, or search.beam above 1.",
    }
    counts = dict(zip(remedies, (searched, ranked, answered)))
    part = max(counts, key=lambda name: counts[name])
    if 100.0 * counts[part] / len(asked.present) < LOST:
        return None
    shares = ", ".join(f"{100.0 * count / len(asked.present):.1f} % {name}" for name, count in counts.items())
    return Sign(f"lost {part}", f"Of {len(asked.present)} events are lost: {shares}.", remedies[part])


def _crowded(asked: Asked) -> Sign | None:
    """Whether first answers stand elsewhere in videos than events do."""
    rows = [(q, p, duration) for q, p, duration in asked.present if len(p.moments)]
    if len(rows) < FEW:
        return None
    answers = [sum(p.moments[0, :2]) / 2 / duration for _, p, duration in rows]
    truths = [sum(q.moments[0]) / 2 / duration for q, _, duration in rows]
    distance, chance = ks_2samp(answers, truths)
    if distance < CROWDED or chance > CHANCE:
        return None
    thirds = lambda places: " / ".join(
        f"{100 * np.mean((np.array(places) * 3).astype(int) == i):.0f}" for i in range(3)
    )
    return Sign(
        "answers crowd in one part of videos",
        f"Percent in the first, second and last third of a video: answers {thirds(answers)}, events {thirds(truths)}.",
        "A frame rate that is a little wrong shifts late answers: `python -m revision_jax.prepare check DIR`. Else the "
        "training events stand elsewhere than these: `python -m revision_jax.prepare report DIR` draws where.",
    )


SIGNATURES: tuple[Callable[[Asked], Sign | None], ...] = (_found_roughly, _false_answers, _lost_by, _crowded)
