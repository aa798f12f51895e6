"""Annotations: sentences and the moments (seconds) at which they are true, as a jsonl file.

A line is a query: `{"query_id", "video_id", "sentence", "moments": [[start_s, end_s]], "distractors": []}`, and, where
a benchmark's own ids differ from these, `"ids": {"qid": 2579}`.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from revision_jax.data.annotations.query import Query
from revision_jax.data.annotations.table import QueryTable, read_table
from revision_jax.text import parse_json, read_lines


def check_queries(queries: Iterable[Query], durations: Mapping[str, float] | None = None) -> Sequence[Query]:
    """Checks queries against each other and, given `durations` (seconds by video id), against the videos.

    Raises ValueError for a repeated query id, an unknown video, a moment or distractor past its video's end.
    """
    if isinstance(queries, QueryTable) and (durations is None or queries.inside(durations)):
        return queries  # its ids are unique
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
            row = dataclasses.asdict(query) | {"ids": dict(query.ids)}
            if not query.ids:
                del row["ids"]
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8")
            file.write(line)
            total.update(line)
    os.replace(partial, path)
    return total.hexdigest()


def load_queries(path: str | os.PathLike, durations: Mapping[str, float] | None = None) -> QueryTable:
    """Reads and checks a jsonl file of queries; errors name the file and the line.

    A file with nothing wrong is read at once into columns; any other line by line, so that errors can name it.

    durations: seconds by video id, to check that every moment lies inside its video.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a jsonl of queries (docs/data.md)")
    table = read_table(path)
    if table is not None and (durations is None or table.inside(durations)):
        return table
    queries = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            queries.append(_parse(parse_json(line)))
        except ValueError as error:  # json.JSONDecodeError is one
            raise ValueError(f"{path}:{number}: {error}") from error
    try:
        return QueryTable.of(check_queries(queries, durations))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parse(row) -> Query:
    """One decoded json line -> Query."""
    known = {field.name for field in dataclasses.fields(Query)}
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}; expected an object with the keys {sorted(known)}")
    missing, unknown = known - {"distractors", "ids"} - set(row), set(row) - known
    if missing or unknown:
        raise ValueError(f"missing keys {sorted(missing)}, unknown keys {sorted(unknown)}; known: {sorted(known)}")
    intervals = {field: tuple(row.get(field, ())) for field in ("moments", "distractors")}
    return Query(**{**row, **intervals})
