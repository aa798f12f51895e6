"""Which moments of which videos the report shows as pictures, and the pictures themselves, by moment."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from revision_jax.report.outcomes import failures_first
from revision_jax.report.plots import Timeline

MOST = 120  # pictures in a report
MOST_BYTES = 1 << 20  # of all of them

Moment = tuple[str, float]  # (video id, second)


class Thumbnails(NamedTuple):
    """Pictures of a report.

    Attributes:
      pictures: moment -> JPEG.
      told: one sentence on how many there are, or why there are none.
    """

    pictures: Mapping[Moment, bytes] = {}
    told: str = ""


def answer_moment(case: Timeline) -> Moment | None:
    """The middle of the first answer."""
    return _middle(case, case.moments[0]) if len(case.moments) else None


def truth_moment(case: Timeline) -> Moment | None:
    """The middle of the true moment nearest to the first answer."""
    if not case.truth:
        return None
    near = case.moments[0][0] if len(case.moments) else case.truth[0][0]
    return _middle(case, min(case.truth, key=lambda moment: abs(moment[0] - near)))


def wanted(cases: Sequence[Timeline]) -> list[Moment]:
    """The moments of answers and truths in the order of the page, failures first; at most `MOST`."""
    found: dict[Moment, None] = {}
    for case in failures_first(cases):
        found |= dict.fromkeys(one for one in (answer_moment(case), truth_moment(case)) if one)
        if len(found) >= MOST:
            break
    return list(found)[:MOST]


def _middle(case: Timeline, moment: Sequence[float]) -> Moment:
    return case.video_id, round(min(max((moment[0] + moment[1]) / 2, 0.0), case.duration_s), 1)
