"""Ego4D's natural language queries: `nlq_{train,val}.json`, `nlq_test_unannotated.json`; times are those of a clip.

{"videos": [{"video_uid", "clips": [{"clip_uid", "video_start_sec", "video_end_sec",
 "annotations": [{"annotation_uid", "language_queries": [{"query", "clip_start_sec", "clip_end_sec"}]}]}]}]}
"""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from revision_jax.data.annotations.query import Ids
from revision_jax.data.annotations.rows import Annotations, Row, hidden_note, read_json, read_rows

TIMES = ("clip_start_sec", "clip_end_sec")


def read_ego4d(path: str | os.PathLike) -> Annotations:
    """Rows of a file: a video is a clip, a query's id `ANNOTATION_UID_number`. Queries without a text are left out."""
    content, name = read_json(path), pathlib.Path(path).name
    if not isinstance(content, dict) or "videos" not in content:
        raise ValueError(f"{path}: has no videos; expected nlq_train.json, nlq_val.json or nlq_test_unannotated.json")
    asked = [
        (clip, annotation, number, query)
        for video in content["videos"]
        for clip in video["clips"]
        for annotation in clip["annotations"]
        for number, query in enumerate(annotation["language_queries"])
    ]
    silent = sum(not query.get("query") for *_, query in asked)
    asked = [item for item in asked if item[-1].get("query")]
    hidden = not any(TIMES[0] in query for *_, query in asked)

    def parse(item: tuple[Mapping, Mapping, int, Mapping[str, Any]]) -> Iterator[Row]:
        clip, annotation, number, query = item
        ids = ids_of(clip["clip_uid"], annotation["annotation_uid"], number)
        moments = () if hidden else (tuple(float(query[name]) for name in TIMES),)
        duration_s = float(clip["video_end_sec"]) - float(clip["video_start_sec"])
        query_id = f"{annotation['annotation_uid']}_{number}"
        yield Row(query_id, str(clip["clip_uid"]), query["query"].strip(), moments, (), duration_s, ids)

    places = [f"{name} annotation {item[1].get('annotation_uid')} query {item[2]}" for item in asked]
    notes = [hidden_note(name)] if hidden else []
    notes += [f"{name}: {silent} of its queries have no text and are left out"] if silent else []
    return Annotations(*read_rows(list(zip(places, asked, strict=True)), parse), notes=notes)


def ids_of(clip_uid: str, annotation_uid: str, number: int) -> Ids:
    """The ids of a query, as the benchmark's submissions have them."""
    return ("clip_uid", clip_uid), ("annotation_uid", annotation_uid), ("query_idx", number)
