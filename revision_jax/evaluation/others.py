"""The answers of other programs, in the forms of `submissions.py`, put beside the queries of a split."""

import dataclasses
import hashlib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from revision_jax.config import ConfigError
from revision_jax.data.annotations.queries import Query
from revision_jax.data.annotations.rows import numbered, read_json
from revision_jax.evaluation.methods import NOTHING
from revision_jax.evaluation.predictions import Prediction
from revision_jax.evaluation.submissions import FORMS, RESULTS, TIMES, WINDOWS
from revision_jax.quoting import quoted

# Form -> how a row names its query, and its windows.
KEYS = {
    "moment_detr": lambda row: (row["qid"], row[WINDOWS]),
    "cone": lambda row: (row["query_id"], row[TIMES]),
    "ego4d_nlq": lambda row: (f"{row['annotation_uid']}_{row['query_idx']}", row[TIMES]),
}
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Answered:
    """The answers of another program.

    Attributes:
      predictions: in the order of the queries; one that the file lacks has no moments.
      missing: queries without a row; they are misses.
      unknown: rows about no query of the split.
      unsorted: rows whose scores do not fall; they are ranked as listed.
      sha256: of the file.
    """

    predictions: list[Prediction]
    missing: int
    unknown: int
    unsorted: int
    sha256: str

    def counts(self) -> dict[str, Any]:
        """What `metrics.json` says of the file."""
        return {name: getattr(self, name) for name in ("missing", "unknown", "unsorted", "sha256")}

    def told(self, path: str | os.PathLike) -> str:
        """`FILE: 90 of 100 queries answered, 10 are missing (misses), 2 rows are about no query here`."""
        queries = len(self.predictions)
        words = [f"{path}: {queries - self.missing} of {queries} queries answered"]
        words += [f"{self.missing} are missing and count as misses"] if self.missing else []
        words += [f"{self.unknown} rows are about no query of this split"] if self.unknown else []
        words += (
            [f"{self.unsorted} rows are not in the order of their scores; ranked as listed"] if self.unsorted else []
        )
        return ", ".join(words)


def read_answers(path: str | os.PathLike, queries: Sequence[Query]) -> Answered:
    """The answers in a file of one of `FORMS`, which its content tells, to the queries of a split.

    Raises:
      ValueError: another form, a row that cannot be read, or a query that is answered twice; names file and row.
    """
    name, rows = _rows(path)
    moments: dict[str, np.ndarray] = {}
    for place, row in rows:
        try:
            key, windows = KEYS[name](row)
            found = _moments(windows)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path}: {place}: {reason}") from None
        if str(key) in moments:
            raise ValueError(f"{path}: {place}: {quoted(str(key))} is answered twice; expected a row a query")
        moments[str(key)] = found
    keys = [FORMS[name].key(query) for query in queries]
    predictions = [Prediction(query.query_id, moments.get(key, NOTHING)) for query, key in zip(queries, keys)]
    missing, unknown = sum(key not in moments for key in keys), len(set(moments) - set(keys))
    if missing == len(keys):
        raise ValueError(
            f"{path}: answers none of the {len(keys)} queries; it has {quoted(str(next(iter(moments), '')))}, expected "
            f"ids such as {quoted(keys[0])}. Is it about another split?"
        )
    unsorted = sum(bool(np.any(np.diff(found[:, 2]) > 0)) for found in moments.values())
    return Answered(predictions, missing, unknown, unsorted, hashlib.sha256(Path(path).read_bytes()).hexdigest())


def _rows(path: str | os.PathLike) -> tuple[str, list[tuple[str, Any]]]:
    """Name of a file's form, and its rows with their places."""
    content = read_json(path)
    if isinstance(content, Mapping) and RESULTS in content:
        return "ego4d_nlq", numbered(path, content[RESULTS])
    rows = content if isinstance(content, list) else [content]
    for name, field in (("moment_detr", WINDOWS), ("cone", TIMES)):
        if rows and all(isinstance(row, Mapping) and field in row for row in rows):
            return name, numbered(path, rows)
    raise ValueError(
        f"{path}: neither a jsonl with {WINDOWS} (moment_detr) or {TIMES} (cone) in every row, nor an object with "
        f"{RESULTS} (ego4d_nlq)"
    )


def _moments(windows: Sequence[Sequence[float]]) -> np.ndarray:
    """`[[start_s, end_s], ...]`, each with a score or without, as ranked moments `[k, 3]`.

    Windows of no length at the end fill places, as our own files do: they are no moments.
    """
    rows = []
    for rank, window in enumerate(windows, 1):
        if not 2 <= len(window) <= 3:
            raise ValueError(f"found {window!r:.60}; expected [start_s, end_s, score]")
        row = [float(value) for value in window] + [1.0 / rank] * (3 - len(window))
        if not all(map(math.isfinite, row)):
            raise ValueError(f"found {window!r:.60}; expected finite numbers")
        rows.append(row)
    while rows and rows[-1][1] <= rows[-1][0]:
        rows.pop()
    return np.array(rows, np.float64).reshape(-1, 3)


def read_others(paths: Sequence[str], queries: Sequence[Query]) -> dict[str, Answered]:
    """Method, `file NAME` -> its answers; what they lack is told."""
    others = {f"file {Path(path).stem}": path for path in paths}
    if len(others) < len(paths):
        raise ConfigError(f"--score names {', '.join(paths)}; expected files of different names.")
    found = {method: read_answers(path, queries) for method, path in others.items()}
    for method, path in others.items():
        log.info("%s", found[method].told(path))
    return found
