"""QVHighlights' annotations: `highlight_{train,val}_release.jsonl` with several windows a query; `test` hides them.

{"qid": 8737, "query", "duration": s, "vid": "ID_660.0_810.0", "relevant_windows": [[start_s, end_s], ...],
 "relevant_clip_ids": [number of a 2-second clip, ...], "saliency_scores": [[...], ...]}
"""

import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from revision_jax.data.annotations.rows import Annotations, Row, hidden_note, intervals, numbered, read_json, read_rows

CLIP_S = 2.0  # seconds of a clip that `relevant_clip_ids` counts
WINDOWS, CLIPS = "relevant_windows", "relevant_clip_ids"


def read_qvhighlights(path: str | os.PathLike) -> Annotations:
    """Rows of a file: every relevant window is a moment. Saliency scores are not used.

    Without `relevant_windows` the clips are joined to windows. A file without either is the hidden test split: its
    queries have no moments, and a note says so.
    """
    content, name = read_json(path), pathlib.Path(path).name
    rows = content if isinstance(content, list) else [content]
    hidden = not any(isinstance(row, dict) and (WINDOWS in row or CLIPS in row) for row in rows)
    differ = 0

    def parse(fields: Mapping[str, Any]) -> Iterator[Row]:
        nonlocal differ
        clips = windows_of(fields[CLIPS]) if CLIPS in fields else None
        if hidden:
            windows = ()
        elif WINDOWS in fields:
            windows = intervals(fields[WINDOWS])
        elif clips is not None:
            windows = clips
        else:
            raise KeyError(WINDOWS)
        query_id, duration_s = str(fields["qid"]), float(fields["duration"])
        ids = () if fields["qid"] == query_id else (("qid", fields["qid"]),)
        yield Row(query_id, str(fields["vid"]), fields["query"], windows, duration_s=duration_s, ids=ids)
        differ += clips is not None and clips_of(windows) != clips_of(clips)

    found = read_rows(numbered(path, rows), parse)
    notes = [hidden_note(name)] if hidden else []
    if differ:
        notes.append(f"{name}: {differ} rows whose {CLIPS} are not those of their {WINDOWS}, which are used")
    return Annotations(*found, notes=notes)


def windows_of(clips: Iterable[int]) -> tuple[tuple[float, float], ...]:
    """Numbers of clips -> windows in seconds, neighbours joined."""
    windows: list[tuple[float, float]] = []
    for clip in sorted(set(clips)):
        start, end = CLIP_S * clip, CLIP_S * (clip + 1)
        if windows and windows[-1][1] == start:
            start = windows.pop()[0]
        windows.append((start, end))
    return tuple(windows)


def clips_of(windows: Iterable[tuple[float, float]]) -> set[int]:
    """The clips that windows hold, to the nearest clip."""
    return {clip for start, end in windows for clip in range(round(start / CLIP_S), round(end / CLIP_S))}
