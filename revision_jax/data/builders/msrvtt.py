"""MSR-VTT's annotations for retrieval: `MSRVTT_data.json` and the CSV of a split; a caption is about a whole video.

MSRVTT_data.json: {"sentences": [{"video_id", "sen_id", "caption"}], ...}
MSRVTT_train.9k.csv: a column `video_id`;  MSRVTT_JSFUSION_test.csv: columns `video_id` and `sentence`
"""

import csv
import io
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from revision_jax.data.annotations.rows import Annotations, Row, numbered, read_json, read_rows
from revision_jax.text import read_text

# Number of videos -> the name of the split in papers; results on different splits do not compare.
SPLITS = {
    6513: "the official training split",
    7010: "train 7k, to be tested on 1k-A",
    9000: "train 9k, to be tested on 1k-A",
    497: "the official validation split",
    2990: "the official test split (full)",
    1000: "test 1k-A (JSFusion)",
}


def read_msrvtt(path: str | os.PathLike | None, table: str | os.PathLike) -> Annotations:
    """Rows of the videos of a CSV: its own sentences, or all captions of these videos.

    Args:
      path: `MSRVTT_data.json`; not needed for a CSV with sentences.
      table: the CSV of the split.
    """
    table = pathlib.Path(table)
    lines = _read_table(table)
    videos = {line["video_id"] for line in lines}
    note = f"MSR-VTT: {table.name} has {len(videos)} videos: {SPLITS.get(len(videos), 'none of the usual splits')}"
    if "sentence" in lines[0]:
        own = lambda line: [Row(line["video_id"], line["video_id"], _plain(line["sentence"]), None)]
        return Annotations(*read_rows(numbered(table, lines), own), notes=[note])
    if path is None:
        raise ValueError(f"{table}: has no column sentence; give MSRVTT_data.json, which has the captions")

    def parse(sentence: Mapping[str, Any]) -> Iterator[Row]:
        if sentence["video_id"] in videos:
            query_id = f"{sentence['video_id']}/{sentence['sen_id']}"
            yield Row(query_id, sentence["video_id"], _plain(sentence["caption"]), None)

    content = read_json(path)
    if not isinstance(content, dict) or "sentences" not in content:
        raise ValueError(f"{path}: found no object with the key sentences; expected MSRVTT_data.json")
    return Annotations(*read_rows(numbered(path, content["sentences"]), parse), notes=[note])


def _read_table(path: pathlib.Path) -> list[dict[str, str]]:
    """Rows of a CSV with commas, semicolons or tabs: the first of these that gives its header a column `video_id`."""
    text = read_text(path)
    for mark in ",;\t":
        lines = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=mark))
        if lines and "video_id" in lines[0]:
            return _whole(path, lines)
    header = text.partition("\n")[0].strip()
    raise ValueError(
        f"{path}: no column video_id in its first line, {header[:80]!r}; expected a CSV of MSR-VTT's videos, "
        "its columns divided by commas, semicolons or tabs"
    )


def _whole(path: pathlib.Path, lines: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows, or a ValueError for one with more or fewer columns than the header."""
    for number, line in enumerate(lines, 2):
        if None in line or None in line.values():
            raise ValueError(f"{path}: row {number} has another number of columns than the first line; quote its text")
    return lines


def _plain(text: str) -> str:
    return " ".join(text.split())
