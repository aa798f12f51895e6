"""The log of an evaluation: predictions that survive a kill.

`predictions.jsonl` begins with a line that says what it belongs to. Then a line a query, and after the last query
of a (method, video) a closing line with its cost: only closed groups count, so that half a video is never scored.
Hosts write apart (`hosts.py`); the first one's file holds everything in the end.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.files import write_text
from revision_jax.metrics.cost import Cost
from revision_jax.text import split_lines


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The answer to one query, as it is kept.

    Attributes:
      moments: `[k, 3]` float64 (start_s, end_s, confidence), best first.
      error: why the query could not be asked; it then has no moments and counts as a miss.
      held: for a present query, whether the event was among the windows that each upper level sent down.
    """

    query_id: str
    moments: np.ndarray
    error: str | None = None
    held: tuple[bool, ...] = ()


class PredictionLog:
    """Predictions of one evaluation, appended a (method, video) at a time.

    Args:
      path: the file; one of another identity is begun anew, one of this identity is continued.
      identity: what the predictions depend on: model, data, settings.
      others: files of other hosts, read where they have this identity.
    """

    def __init__(self, path: Path, identity: str, others: Sequence[Path] = ()):
        self.path = path
        self._groups: dict[tuple[str, str], tuple[list[Prediction], Cost]] = {}
        self._header = {"evaluation": identity}
        own = self._read(path)
        self._in_file = set(own)
        # What a kill left open is dropped from the file too, else it would stand there twice.
        lines = [self._header, *(line for group in own.values() for line in group)]
        write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        self.read_others(others)

    def read_others(self, others: Sequence[Path]) -> None:
        """Takes in what other hosts wrote."""
        for other in others:
            self._read(other)

    def merge(self, others: Sequence[Path]) -> None:
        """Takes in what other hosts wrote, into this file, and removes theirs."""
        for other in others:
            groups = self._read(other)
            new = [group for key, group in groups.items() if key not in self._in_file]
            append_lines(self.path, [line for group in new for line in group])
            self._in_file |= set(groups)
            other.unlink()

    def _read(self, path: Path) -> dict[tuple[str, str], list[dict]]:
        """Takes in the closed groups of a file, if it is of this identity, and returns their lines."""
        open_: dict[tuple[str, str], list[dict]] = {}
        closed, lines = {}, whole_lines(path)
        for line in lines[1:] if lines[:1] == [self._header] else []:
            key = line["method"], line["video_id"]
            if "cost" in line:
                rows = open_.pop(key, [])
                if len(rows) == line["queries"]:
                    self._groups.setdefault(key, ([_prediction(row) for row in rows], Cost.from_dict(line["cost"])))
                    closed[key] = [*rows, line]
            else:
                open_.setdefault(key, []).append(line)
        return closed

    def get(self, method: str, video_id: str) -> tuple[list[Prediction], Cost] | None:
        """A closed group: its predictions and their cost, or None."""
        return self._groups.get((method, video_id))

    def append(self, method: str, queries: Sequence[Query], predictions: Sequence[Prediction], cost: Cost) -> None:
        """Writes the predictions of one video's queries and closes the group."""
        video_id = queries[0].video_id
        rows = [
            {"method": method, "video_id": video_id, "query_id": p.query_id, "sentence": q.sentence}
            | {"truth": q.moments, "moments": _rounded(p.moments)}
            | ({"error": p.error} if p.error else {})
            | ({"held": p.held} if p.held else {})
            for q, p in zip(queries, predictions, strict=True)
        ]
        end = {"method": method, "video_id": video_id, "queries": len(rows), "cost": cost.as_dict()}
        append_lines(self.path, [*rows, end])
        # What is scored is what is in the file, so that a resumed evaluation scores the same.
        self._groups[method, video_id] = [_prediction(row) for row in rows], cost
        self._in_file.add((method, video_id))


def append_lines(path: Path, lines: Sequence[dict]) -> None:
    """Adds lines to a file; when this returns they are on the disk."""
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def _rounded(moments: np.ndarray) -> list[list[float]]:
    return [[round(float(start), 3), round(float(end), 3), float(sure)] for start, end, sure in moments]


def _prediction(row: Mapping) -> Prediction:
    moments = np.array(row["moments"], np.float64).reshape(-1, 3)
    return Prediction(row["query_id"], moments, row.get("error"), tuple(row.get("held", ())))


def whole_lines(path: Path) -> list[dict]:
    """The lines up to the first that a kill cut short."""
    lines = []
    for line in split_lines(path.read_text(encoding="utf-8")) if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines
