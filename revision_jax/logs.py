"""Logs of one JSON object a line: appended to, cut short by kills, read again. What cannot be used is told, by line."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from revision_jax.checksums import plain_sha256
from revision_jax.text import parse_json

SEAL = "sha256"  # the key of a line that says what it, and lines before it, held when they were written
log = logging.getLogger(__name__)


class Line(NamedTuple):
    """One object of a log, and where it stands."""

    number: int
    value: dict[str, Any]


def read_log(path: Path) -> list[Line]:
    """The lines of a log that are JSON objects, [] where there is no file; any other line is left out and told."""
    pieces = path.read_bytes().split(b"\n") if path.exists() else []
    lines = []
    for number, piece in enumerate(pieces, 1):
        if not piece and number == len(pieces):
            break
        if (value := _object(piece)) is not None:
            lines.append(Line(number, value))
        elif number == len(pieces):
            left_out(path, number, "this last line is cut short, as a kill leaves it")
        else:
            left_out(path, number, f"found {piece[:40]!r}, expected a JSON object")
    return lines


def _object(piece: bytes) -> dict[str, Any] | None:
    try:
        value = parse_json(piece.decode("utf-8"))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def left_out(path: Path, number: int, why: str) -> None:
    """Tells that a line of a log is not used."""
    log.warning("%s:%d: %s; it is left out", path, number, why)


def append_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines to a file; when this returns they are on the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())


def sealed(line: Mapping[str, Any], *belongs: Any) -> dict[str, Any]:
    """A line with a checksum of it and of what it belongs to."""
    return {**line, SEAL: plain_sha256([line, *belongs])}


def is_sealed(line: Mapping[str, Any], *belongs: Any) -> bool:
    """Whether a line, and what it belongs to, is what `sealed` was given."""
    own = {key: value for key, value in line.items() if key != SEAL}
    return line.get(SEAL) == plain_sha256([own, *belongs])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a training's `metrics.jsonl` in order; other lines, and steps without a row, are told."""
    rows: list[dict[str, Any]] = []
    seen, last = set(), 0
    for number, row in read_log(path):
        step, key = row.get("step"), (row.get("step"), "val_loss" in row)
        if type(step) is not int or step < 1 or not all(isinstance(value, int | float) for value in row.values()):
            left_out(path, number, "expected a step and numbers")
        elif step < last or key in seen:
            left_out(path, number, f"step {step} follows step {last}")
        else:
            rows.append(row)
            seen.add(key)
            last = step
    if lacking := [step for step in range(1, last + 1) if (step, False) not in seen]:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        log.warning("%s has no row of step %s%s", path, ", ".join(map(str, lacking[:3])), more)
    return rows
