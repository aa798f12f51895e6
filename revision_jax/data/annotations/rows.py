"""Annotations as data sets have them: rows, which may be wrong -> queries that can be used, and gaps for the others.

Readers (data/builders) turn each format into rows; `accept` alone decides which rows are usable. Times in seconds.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.annotations.queries import Query
from revision_jax.data.annotations.query import Ids
from revision_jax.quoting import quoted
from revision_jax.text import is_name, parse_json, read_text, split_lines

Made = TypeVar("Made")  # rows, or what becomes rows
END_SLACK_S = 1.0  # an event may end this much after its video, as players round up; it is cut at the end


@dataclasses.dataclass(frozen=True)
class Row:
    """One annotated sentence, unchecked.

    moments: (start_s, end_s) of each occurrence; None = the whole video.
    duration_s: length of the video as annotated; None if the data set does not give it.
    ids: as `Query.ids`.
    """

    query_id: str
    video_id: str
    sentence: str
    moments: tuple[tuple[float, float], ...] | None
    distractors: tuple[tuple[float, float], ...] = ()
    duration_s: float | None = None
    ids: Ids = dataclasses.field(default=(), repr=False)  # the fingerprint of annotations is their text

    def __post_init__(self):
        for field in ("query_id", "video_id"):
            value = getattr(self, field)
            if not is_name(value):
                raise ValueError(f"{field} is {value!r}; expected text without control characters")
        if self.duration_s is not None and not 0 < self.duration_s < math.inf:
            raise ValueError(f"the video lasts {self.duration_s} s; expected a time > 0")


@dataclasses.dataclass(frozen=True)
class Annotations:
    """What a reader found: rows, gaps for the rows that it could not read, and notes to be shown."""

    rows: Sequence[Row]
    gaps: Sequence[Gap] = ()
    notes: Sequence[str] = ()

    @property
    def video_ids(self) -> list[str]:
        """Every annotated video once, in the order in which they come."""
        return list(dict.fromkeys(row.video_id for row in self.rows))


def duration_slack(duration_s: float) -> float:
    """By how many seconds two measures of a video's length may differ: frame rates and players round."""
    return max(2.0, 0.002 * duration_s)


def read_rows(items: Iterable[tuple[str, Any]], parse: Callable[[Any], Iterable[Made]]) -> tuple[list[Made], list[Gap]]:
    """(where, item) of a file -> the rows `parse` makes of them, and a gap for each item that it cannot read."""
    rows, gaps = [], []
    for where, item in items:
        try:
            rows += parse(item)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            gaps.append(Gap("annotation", f"{where}: {reason}"))
    return rows, gaps


def intervals(pairs: Iterable[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """[[start, end], ...] as floats; ValueError for anything else."""
    found = []
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"found {pair!r}; expected [start_s, end_s]")
        found.append((float(pair[0]), float(pair[1])))
    return tuple(found)


def read_json(path: str | os.PathLike) -> Any:
    """A JSON file, or the rows of a jsonl file as a list; errors name the file and what was expected."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the annotations (docs/data.md says where from)")
    text = read_text(path)
    try:
        return parse_json(text)
    except ValueError as whole:
        try:
            return [parse_json(line) for line in split_lines(text) if line.strip()]
        except ValueError as error:
            raise ValueError(f"{path}: neither JSON ({whole}) nor jsonl ({error})") from error


def hidden_note(name: str) -> str:
    """What to know of a file of annotations whose times the benchmark keeps to itself."""
    return f"{name} hides its times: nothing can be scored on it here; `evaluate --submission` writes the answers"


def known_id(keys: Collection[str], *names: str) -> str:
    """The first of a video's possible ids that there are features or a file of; the first of all if there is none."""
    return next((name for name in names if name in keys), names[0])


def numbered(path: str | os.PathLike, rows: Any) -> list[tuple[str, Any]]:
    """Rows of a list, each with its place: `FILE row 3`.

    Raises:
      ValueError: it is no list.
    """
    if not isinstance(rows, list):
        raise ValueError(f"{path}: found {quoted(str(rows))}; expected a list of rows")
    name = pathlib.Path(path).name
    return [(f"{name} row {number}", row) for number, row in enumerate(rows, 1)]


def accept(rows: Iterable[Row], durations: Mapping[str, float]) -> tuple[list[Query], list[Gap]]:
    """Rows -> the queries that can be used, and what keeps the others out.

    Args:
      durations: seconds by video id, of the videos with features.

    A row whose video is missing is left out without a gap of its own: the builder reports the missing video once.
    """
    queries, gaps, seen = [], [], set()
    for row in rows:
        again = row.query_id in seen
        seen.add(row.query_id)
        if row.video_id not in durations:
            continue
        duration_s, about = durations[row.video_id], (row.video_id, row.query_id)
        if again:
            gaps.append(Gap("duplicate id", f"query id {row.query_id!r} occurs twice; expected unique ids", *about))
            continue
        whole = ((0.0, duration_s),)
        moments = [_fit(moment, duration_s) for moment in (whole if row.moments is None else row.moments)]
        distractors = [_fit(moment, duration_s) for moment in row.distractors]
        faults = [Gap(*fault, *about) for fault in (*moments, *distractors) if isinstance(fault[0], str)]
        if not faults:
            try:
                kept = tuple(moments), tuple(distractors), row.ids
                queries.append(Query(row.query_id, row.video_id, row.sentence, *kept))
            except ValueError as error:
                faults = [Gap("annotation", str(error), *about)]
        gaps += faults
    return queries, gaps + _disagreements(rows, durations)


def _fit(moment: tuple[float, float], duration_s: float) -> tuple[float, float] | tuple[str, str]:
    """A moment inside its video, or the kind and detail of what is wrong with it."""
    start, end = moment
    if not (math.isfinite(start) and math.isfinite(end)):
        return "annotation", f"[{start}, {end}] is not a time; expected seconds"
    if end <= start:
        return "zero length", f"[{start:g}, {end:g}] s; expected start < end"
    if start < 0 or start >= duration_s or end > duration_s + END_SLACK_S:
        return "outside video", f"[{start:g}, {end:g}] s in a video of {duration_s:.10g} s; check unit and video"
    return start, min(end, duration_s)


def _disagreements(rows: Iterable[Row], durations: Mapping[str, float]) -> list[Gap]:
    """A gap for each video whose annotated length is not that of its frames."""
    gaps, seen = [], set()
    for row in rows:
        if row.video_id in seen or row.duration_s is None or row.video_id not in durations:
            continue
        seen.add(row.video_id)
        found, said = durations[row.video_id], row.duration_s
        if abs(found - said) > duration_slack(found):
            detail = f"annotated as {said:.10g} s, its frames last {found:.10g} s; check the frame rate and the video"
            gaps.append(Gap("duration", detail, row.video_id))
    return gaps
