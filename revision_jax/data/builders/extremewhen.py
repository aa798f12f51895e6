"""ExtremeWhenBench's annotations: a JSON list, an object with `questions`, or jsonl; one row a question.

{"qid", "video_id", "source_corpus", "question", "correct_interval": [start_s, end_s], "video_duration_s": s, ...}
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from revision_jax.data.annotations.rows import Annotations, Row, intervals, numbered, read_json, read_rows


def read_extremewhen(path: str | os.PathLike) -> Annotations:
    """Rows of a file; the videos are those of LVBench, MLVU and VideoMME, `VIDEO_ID.mp4`."""
    content = read_json(path)
    if isinstance(content, dict):
        content = content.get("questions", [content])

    def parse(fields: Mapping[str, Any]) -> Iterator[Row]:
        duration_s = fields.get("video_duration_s")
        yield Row(
            query_id=str(fields["qid"]),
            video_id=str(fields["video_id"]),
            sentence=fields["question"],
            moments=intervals([fields["correct_interval"]]),
            duration_s=None if duration_s is None else float(duration_s),
        )

    return Annotations(*read_rows(numbered(path, content), parse))
