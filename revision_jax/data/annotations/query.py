"""A query: a sentence about one video, and the moments (seconds) at which it is true."""

import dataclasses
import math

from revision_jax.text import is_unicode

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Query:
    """A sentence about one video.

    moments: every (start_s, end_s) at which the event happens; empty = it never happens.
    distractors: near misses (start_s, end_s): events that resemble it, but are not it.
    """

    query_id: str
    video_id: str
    sentence: str
    moments: tuple[Interval, ...]
    distractors: tuple[Interval, ...] = ()

    def __post_init__(self):
        for field in ("query_id", "video_id", "sentence"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"query {self.query_id!r}: {field} is {value!r}; expected non-empty text")
            if not is_unicode(value):
                raise ValueError(f"query {self.query_id!r}: {field} is {value!r}, with half a character; expected text")
        for field in ("moments", "distractors"):
            intervals = tuple(_interval(self.query_id, field, value) for value in getattr(self, field))
            object.__setattr__(self, field, intervals)

    @property
    def present(self) -> bool:
        """Whether the event happens at all."""
        return bool(self.moments)


def _interval(query_id: str, field: str, value) -> Interval:
    """Checks one (start_s, end_s) of a query and returns it as two floats."""
    try:
        start, end = (float(t) for t in value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"query {query_id!r}: {field} holds {value!r:.80}; expected [start_s, end_s]") from None
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start < end):
        raise ValueError(f"query {query_id!r}: {field} holds [{start}, {end}]; expected 0 <= start < end (seconds)")
    return start, end
