"""A query: a sentence about one video, and the moments (seconds) at which it is true."""

import dataclasses
import math
from collections.abc import Mapping

from revision_jax.text import is_unicode

Interval = tuple[float, float]
Ids = tuple[tuple[str, str | int], ...]


@dataclasses.dataclass(frozen=True)
class Query:
    """A sentence about one video.

    moments: every (start_s, end_s) at which the event happens; empty = it never happens.
    distractors: near misses (start_s, end_s): events that resemble it, but are not it.
    ids: (name, value) of each id of the original annotations beside `query_id` and `video_id`, for submissions.
    """

    query_id: str
    video_id: str
    sentence: str
    moments: tuple[Interval, ...]
    distractors: tuple[Interval, ...] = ()
    ids: Ids = ()

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
        if self.ids:
            object.__setattr__(self, "ids", check_ids(self.query_id, self.ids))

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


def check_ids(query_id: str, value) -> Ids:
    """Checks the ids of a query, pairs or an object, and returns them as pairs; ValueError for anything else."""
    try:
        pairs = tuple((name, own) for name, own in (value.items() if isinstance(value, Mapping) else value))
    except (TypeError, ValueError):
        pairs = ((None, None),)
    if not all(isinstance(name, str) and isinstance(own, str | int) for name, own in pairs):
        raise ValueError(f"query {query_id!r}: ids is {value!r:.80}; expected an object of text and whole numbers")
    return pairs
