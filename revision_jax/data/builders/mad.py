"""MAD's annotations: `MAD_{train,val,test}.json`, and the CONE jsonl of MAD and Ego4D-NLQ.

MAD:  {query_id: {"movie", "sentence", "timestamps": [start_s, end_s], "movie_duration": s, ...}}
CONE: a line {"query_id", "query", "duration", "clip_id", "video_id", "timestamps": [start_s, end_s]}
"""

import os
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from revision_jax.data.annotations.rows import Annotations, Row, intervals, numbered, read_json, read_rows
from revision_jax.data.builders.ego4d import ids_of

EGO4D = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_(\d+)")  # annotation, number of its query


def read_mad(path: str | os.PathLike) -> Annotations:
    """Rows of a MAD file: `timestamps` are the event's, `ext_timestamps` reach to its neighbours and are not used."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is a {type(content).__name__}; expected MAD's object of query ids")
    name = pathlib.Path(path).name

    def parse(item: tuple[str, Mapping[str, Any]]) -> Iterator[Row]:
        query_id, fields = item
        yield Row(
            query_id=str(query_id),
            video_id=str(fields["movie"]),
            sentence=fields["sentence"],
            moments=intervals([fields["timestamps"]]),
            duration_s=float(fields["movie_duration"]),
        )

    return Annotations(*read_rows([(f"{name} query {key}", (key, value)) for key, value in content.items()], parse))


def read_cone(path: str | os.PathLike, keys: Collection[str]) -> Annotations:
    """Rows of a CONE jsonl.

    keys: the features' keys. Ego4D's features are by clip, MAD's by movie: the video of a row is its `clip_id` where
    there are features of that, else its `video_id`. Times are those of that video.
    """
    known = set(keys)

    def parse(fields: Mapping[str, Any]) -> Iterator[Row]:
        clip, query_id, video = str(fields["clip_id"]), str(fields["query_id"]), str(fields["video_id"])
        ego4d = EGO4D.fullmatch(query_id)
        number = () if fields["query_id"] == query_id else (("query_id", fields["query_id"]),)
        yield Row(
            query_id=query_id,
            video_id=clip if clip in known else video,
            sentence=fields["query"],
            moments=intervals([fields["timestamps"]]),
            duration_s=float(fields["duration"]),
            ids=ids_of(clip, ego4d[1], int(ego4d[2])) if ego4d else number,
        )

    content = read_json(path)
    rows = content if isinstance(content, list) else [content]
    return Annotations(*read_rows(numbered(path, rows), parse))
