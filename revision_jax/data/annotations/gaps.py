"""Gaps: one record for each thing that is missing or wrong in a data set, kept in `gaps.jsonl`."""

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable

from revision_jax.text import read_jsonl

GAPS = "gaps.jsonl"
# kind -> its meaning, the gravest first; tables of gaps are in this order.
KINDS = {
    "unfinished": "not complete: interrupted, or not merged",
    "damaged": "a file is missing, cut short or changed",
    "encoder": "features of another encoder, width or frame rate",
    "not finite": "NaN or infinity among the features",
    "video missing": "annotated, but there are no features or file",
    "video unreadable": "a file that cannot be used as a video",
    "duration": "the annotated length and the frame count disagree",
    "annotation": "a row that cannot be read",
    "duplicate id": "an id that occurs twice",
    "zero length": "an event that ends where it starts, or before",
    "outside video": "an event before the start or after the end of its video",
    "split leak": "the same video in two splits",
}


@dataclasses.dataclass(frozen=True)
class Gap:
    """One thing that is missing or wrong.

    kind: a key of `KINDS`. detail: what was found and expected. video_id, query_id: the one video or query that it is
    about; empty if it is about several.
    """

    kind: str
    detail: str
    video_id: str = ""
    query_id: str = ""

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of gap {self.kind!r}; expected one of {', '.join(KINDS)}")


def save_gaps(path: str | os.PathLike, gaps: Iterable[Gap]) -> None:
    """Writes gaps as jsonl, whole or not at all; no gaps, no file."""
    path, gaps = pathlib.Path(path), list(gaps)
    if not gaps:
        path.unlink(missing_ok=True)
        return
    partial = path.with_name(path.name + ".tmp")
    lines = (json.dumps(dataclasses.asdict(gap), ensure_ascii=False) + "\n" for gap in gaps)
    partial.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")  # halves of characters
    os.replace(partial, path)


def load_gaps(path: str | os.PathLike) -> list[Gap]:
    """The gaps of a jsonl file; none if there is no file."""
    path = pathlib.Path(path)
    if not path.is_file():
        return []
    return [Gap(**row) for row in read_jsonl(path)]


def in_order(gaps: Iterable[Gap]) -> list[Gap]:
    """Gaps by kind, the gravest kinds first, then by video and query; each once."""
    place = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(dict.fromkeys(gaps), key=lambda gap: (place[gap.kind], gap.video_id, gap.query_id))


def summarise(gaps: Iterable[Gap]) -> str:
    """`3 outside video, 1 zero length`."""
    counts = collections.Counter(gap.kind for gap in in_order(gaps))
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "no gaps"
