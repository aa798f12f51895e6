"""The log of an evaluation: predictions that survive a kill.

`predictions.jsonl` begins with a line that says what it belongs to. Then a line a query, and after the last query
of a (method, video) a closing line with its cost and a checksum of the group: only closed groups that are what was
written count, so that half a video, or another one's moments, are never scored.
Hosts write apart (`hosts.py`); the first one's file holds everything in the end.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.files import write_text
from revision_jax.logs import SEAL, append_lines, is_sealed, left_out, read_log, sealed
from revision_jax.metrics.cost import Cost

log = logging.getLogger(__name__)


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
        closed, lines = {}, read_log(path)
        if lines and lines[0].value != self._header:
            log.warning("%s belongs to another evaluation: of another model, data or search; it is not used", path)
            return {}
        for number, line in lines[1:]:
            key = str(line.get("method")), str(line.get("video_id"))
            if SEAL not in line:
                open_.setdefault(key, []).append(line)
            elif is_sealed(line, self._header, rows := open_.pop(key, [])):
                self._groups.setdefault(key, ([_prediction(row) for row in rows], Cost.from_dict(line["cost"])))
                closed[key] = [*rows, line]
            else:
                left_out(path, number, f"the lines of {key[0]!r}, {key[1]!r} are not what was written")
        if open_:
            log.info("%s: %d lines of videos that were not finished are left out", path, sum(map(len, open_.values())))
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
        end = sealed(end, self._header, rows)
        append_lines(self.path, [*rows, end])
        # What is scored is what is in the file, so that a resumed evaluation scores the same.
        self._groups[method, video_id] = [_prediction(row) for row in rows], cost
        self._in_file.add((method, video_id))


def _rounded(moments: np.ndarray) -> list[list[float]]:
    return [[round(float(start), 3), round(float(end), 3), float(sure)] for start, end, sure in moments]


def _prediction(row: Mapping) -> Prediction:
    moments = np.array(row["moments"], np.float64).reshape(-1, 3)
    return Prediction(row["query_id"], moments, row.get("error"), tuple(row.get("held", ())))
