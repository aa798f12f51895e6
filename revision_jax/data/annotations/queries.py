"""Annotations: sentences and the moments (seconds) at which they are true, as a jsonl file.

A line is a query: `{"query_id", "video_id", "sentence", "moments": [[start_s, end_s]], "distractors": []}`.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping

from revision_jax.text import is_unicode, parse_json, read_lines

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


def check_queries(queries: Iterable[Query], durations: Mapping[str, float] | None = None) -> list[Query]:
    """Checks queries against each other and, given `durations` (seconds by video id), against the videos.

    Raises ValueError for a repeated query id, an unknown video, a moment or distractor past its video's end.
    """
    queries = list(queries)
    seen = set()
    for query in queries:
        if query.query_id in seen:
            raise ValueError(f"query id {query.query_id!r} occurs twice; expected unique ids")
        seen.add(query.query_id)
        if durations is None:
            continue
        if query.video_id not in durations:
            raise ValueError(
                f"query {query.query_id!r} names video {query.video_id!r}, which is not among the "
                f"{len(durations)} videos with features; extract that video or drop the query"
            )
        duration = durations[query.video_id]
        for start, end in query.moments + query.distractors:
            if end > duration + 1e-3:  # annotations are rounded to milliseconds
                raise ValueError(
                    f"query {query.query_id!r}: [{start}, {end}] ends after video {query.video_id!r} "
                    f"({duration:.3f} s); check the unit (seconds) and the video"
                )
    return queries


def save_queries(path: str | os.PathLike, queries: Iterable[Query]) -> str:
    """Writes queries as jsonl, whole or not at all; returns the file's sha256."""
    path, total = pathlib.Path(path), hashlib.sha256()
    partial = path.with_name(path.name + ".tmp")
    with partial.open("wb") as file:
        for query in check_queries(queries):
            line = (json.dumps(dataclasses.asdict(query), ensure_ascii=False) + "\n").encode("utf-8")
            file.write(line)
            total.update(line)
    os.replace(partial, path)
    return total.hexdigest()


def load_queries(path: str | os.PathLike, durations: Mapping[str, float] | None = None) -> list[Query]:
    """Reads and checks a jsonl file of queries; errors name the file and the line.

    durations: seconds by video id, to check that every moment lies inside its video.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a jsonl of queries (docs/data.md)")
    queries = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            queries.append(_parse(parse_json(line)))
        except ValueError as error:  # json.JSONDecodeError is one
            raise ValueError(f"{path}:{number}: {error}") from error
    try:
        return check_queries(queries, durations)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parse(row) -> Query:
    """One decoded json line -> Query."""
    known = {field.name for field in dataclasses.fields(Query)}
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}; expected an object with the keys {sorted(known)}")
    missing, unknown = known - {"distractors"} - set(row), set(row) - known
    if missing or unknown:
        raise ValueError(f"missing keys {sorted(missing)}, unknown keys {sorted(unknown)}; known: {sorted(known)}")
    intervals = {field: tuple(row.get(field, ())) for field in ("moments", "distractors")}
    return Query(**{**row, **intervals})
