"""Events as people mark them in other programs: a video, a sentence and one time span -> rows of queries."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.annotations.rows import Annotations, Row
from revision_jax.text import is_name

CLOCK = re.compile(r"(?:(?:(?P<h>\d+):)?(?P<m>\d{1,2}):)?(?P<s>\d+)(?:[.,](?P<part>\d+))?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Event:
    """One mark: what happens in a video, and when (start_s, end_s); None = it never happens there.

    Raises:
      ValueError: no sentence, a name that cannot be an id, or an end that does not come after the start.
    """

    video_id: str
    sentence: str
    moment: tuple[float, float] | None

    def __post_init__(self):
        if not self.sentence.strip():
            raise ValueError("no sentence; expected what happens there")
        if not self.video_id or not is_name(self.video_id):
            raise ValueError(f"the video is {self.video_id!r}; expected its file name")
        if self.moment is not None and self.moment[1] <= self.moment[0]:
            start, end = self.moment
            raise ValueError(f"starts at {start:g} s and ends at {end:g} s; expected an end after the start")


def read_time(text: str) -> float:
    """Seconds of `62.5` or of a clock, `1:02.5`, `0:01:02.500`; a comma may stand for the point.

    Raises:
      ValueError: anything else.
    """
    found = CLOCK.fullmatch(text.strip())
    parts = found.groupdict() if found else {}
    wrong = parts.get("m") is not None and (int(parts["s"]) > 59 or (parts["h"] is not None and int(parts["m"]) > 59))
    if not found or wrong:
        raise ValueError(f"found the time {text.strip()!r:.40}; expected seconds (62.5) or H:MM:SS.mmm (0:01:02.500)")
    whole = int(parts["h"] or 0) * 3600 + int(parts["m"] or 0) * 60
    return whole + float(f"{parts['s']}.{parts['part'] or 0}")


def collect(events: Iterable[Event], gaps: Sequence[Gap], notes: Sequence[str] = ()) -> Annotations:
    """One row for each sentence of a video, with all the times at which it was marked; `film#3` is its id."""
    moments: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for event in events:
        own = moments.setdefault((event.video_id, " ".join(event.sentence.split())), [])
        own += [event.moment] if event.moment is not None and event.moment not in own else []
    rows, counts = [], dict.fromkeys((video_id for video_id, _ in moments), 0)
    for (video_id, sentence), own in moments.items():
        counts[video_id] += 1
        rows.append(Row(f"{video_id}#{counts[video_id]}", video_id, sentence, tuple(sorted(own))))
    return Annotations(rows, gaps, notes)
