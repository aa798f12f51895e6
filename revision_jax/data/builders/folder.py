"""One's own data: a folder of video files or features, and annotations in this project's form or other programs'."""

import dataclasses
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.annotations.rows import Annotations, Row, intervals, known_id, numbered, read_json, read_rows
from revision_jax.data.builders.elan import read_eaf
from revision_jax.data.builders.events import Event, collect
from revision_jax.data.builders.sheets import read_sheet
from revision_jax.data.builders.subtitles import read_subtitles
from revision_jax.text import is_name

# What FFmpeg's containers are called; other files of a folder (subtitles, notes) are not videos.
SUFFIXES = {f".{name}" for name in "mp4 m4v mov mkv webm avi mpg mpeg vob ts mts m2ts flv wmv ogv 3gp mxf".split()}  # noqa: SIM905

READERS = {
    ".csv": read_sheet, ".tsv": read_sheet, ".txt": read_sheet,
    ".eaf": read_eaf, ".srt": read_subtitles, ".vtt": read_subtitles,
}  # fmt: skip
IN_FOLDERS = (".eaf", ".srt", ".tsv", ".vtt")  # of a folder: a file about each video; others are not annotations


def read_own(path: str | os.PathLike, keys: Collection[str]) -> Annotations:
    """Annotations of one's own: a jsonl of queries, a CSV, ELAN's files, subtitles, or a folder of the last two.

    A file that names no video is about the one of its own name.

    Args:
      keys: ids of the features or video files that there are.

    Raises:
      FileNotFoundError, ValueError: nothing there, or a file in another form.
    """
    path = pathlib.Path(path)
    if not path.is_dir() and path.suffix.lower() not in READERS:
        return read_queries(path)
    files = [path]
    if path.is_dir():
        found = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in IN_FOLDERS and file.is_file()]
        files = [file for file in found if not file.name.startswith(".")]
    if not files or not path.exists():
        raise FileNotFoundError(f"{path}: no annotations; expected a file, or files {' '.join(IN_FOLDERS)} in a folder")
    events: list[Event] = []
    gaps: list[Gap] = []
    notes: list[str] = []
    about: dict[str, pathlib.Path] = {}
    for file in files:
        whole = (file.relative_to(path) if path.is_dir() else pathlib.Path(file.name)).with_suffix("").as_posix()
        name = known_id(keys, whole, whole.rpartition(".")[0] or whole)  # film.en.srt is of film
        if about.setdefault(name, file) != file:
            detail = f"{file.name} is about the same video as {about[name].name}, which alone is read"
            gaps.append(Gap("annotation", detail, name))
            continue
        for all_of, own in zip((events, gaps, notes), READERS[file.suffix.lower()](file, name)):
            all_of += own
    return collect((_named(event, keys) for event in events), gaps, notes)


def _named(event: Event, keys: Collection[str]) -> Event:
    """The event with its video's id, where it was given with its suffix: `film.mp4`."""
    stem, dot, suffix = event.video_id.rpartition(".")
    is_file = bool(stem) and dot + suffix.lower() in SUFFIXES
    return dataclasses.replace(event, video_id=known_id(keys, event.video_id, stem)) if is_file else event


def read_queries(path: str | os.PathLike) -> Annotations:
    """Rows of a jsonl of `{"query_id", "video_id", "sentence", "moments": [[start_s, end_s]], "distractors": []}`."""
    known = {"query_id", "video_id", "sentence", "moments", "distractors", "ids"}

    def parse(fields: Mapping[str, Any]) -> Iterator[Row]:
        if unknown := set(fields) - known:
            raise ValueError(f"unknown fields {sorted(unknown)}; known are {sorted(known)}")
        yield Row(
            str(fields["query_id"]),
            str(fields["video_id"]),
            fields["sentence"],
            intervals(fields["moments"]),
            intervals(fields.get("distractors", ())),
            ids=tuple(dict(fields.get("ids", {})).items()),
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
