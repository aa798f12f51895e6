"""One's own data: a folder of video files or features, and a jsonl of queries in this project's form (docs/data.md)."""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.annotations.rows import Annotations, Row, intervals, numbered, read_json, read_rows
from revision_jax.text import is_name

# What FFmpeg's containers are called; other files of a folder (subtitles, notes) are not videos.
SUFFIXES = {f".{name}" for name in "mp4 m4v mov mkv webm avi mpg mpeg vob ts mts m2ts flv wmv ogv 3gp mxf".split()}  # noqa: SIM905


def read_queries(path: str | os.PathLike) -> Annotations:
    """Rows of a jsonl of `{"query_id", "video_id", "sentence", "moments": [[start_s, end_s]], "distractors": []}`."""
    known = {"query_id", "video_id", "sentence", "moments", "distractors"}

    def parse(fields: Mapping[str, Any]) -> Iterator[Row]:
        if unknown := set(fields) - known:
            raise ValueError(f"unknown fields {sorted(unknown)}; known are {sorted(known)}")
        yield Row(
            str(fields["query_id"]),
            str(fields["video_id"]),
            fields["sentence"],
            intervals(fields["moments"]),
            intervals(fields.get("distractors", ())),
        )

    content = read_json(path)
    return Annotations(*read_rows(numbered(path, content if isinstance(content, list) else [content]), parse))


def find_videos(folder: str | os.PathLike) -> tuple[dict[str, pathlib.Path], list[Gap]]:
    """Video id (its path without suffix) -> file, for all under a folder; and a gap for each id that comes twice."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected video files")
    files, gaps = {}, []
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in SUFFIXES or not file.is_file() or file.name.startswith("."):
            continue
        video_id = file.relative_to(folder).with_suffix("").as_posix()
        if not is_name(video_id):
            shown = video_id.encode("unicode_escape").decode()
            detail = f"{shown}: its name is not UTF-8, or holds control characters; rename it"
            gaps.append(Gap("video unreadable", detail, shown))
        elif video_id in files:
            gaps.append(Gap("duplicate id", f"{files[video_id].name} and {file.name} have one id", video_id))
        else:
            files[video_id] = file
    if not files:
        raise FileNotFoundError(f"{folder}: no video files; expected some of {' '.join(sorted(SUFFIXES))}")
    return files, gaps
