"""MSR-VTT's annotations for retrieval: `MSRVTT_data.json` and the CSV of a split; a caption is about a whole video.

MSRVTT_data.json: {"sentences": [{"video_id", "sen_id", "caption"}], ...}
MSRVTT_train.9k.csv: a column `video_id`;  MSRVTT_JSFUSION_test.csv: columns `video_id` and `sentence`
"""

import csv
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from revision_jax.data.annotations.rows import Annotations, Row, numbered, read_json, read_rows

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
    with table.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    if not lines or "video_id" not in lines[0]:
        raise ValueError(f"{table}: no column video_id; expected a CSV of MSR-VTT's videos")
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

    return Annotations(*read_rows(numbered(path, read_json(path)["sentences"]), parse), notes=[note])


def _plain(text: str) -> str:
    return " ".join(text.split())
