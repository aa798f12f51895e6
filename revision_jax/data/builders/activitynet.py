"""Annotations with one object a video: ActivityNet Captions (`train.json`, `val_1.json`, `val_2.json`) and TACoS.

ActivityNet: {"v_ID": {"duration": s, "timestamps": [[start_s, end_s], ...], "sentences": [text, ...]}}
TACoS: {"s13-d21.avi": {"num_frames", "fps", "timestamps": [[first, last], ...], "sentences": [...]}}, times in frames
"""

import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from revision_jax.data.annotations.rows import Annotations, Row, intervals, known_id, read_json, read_rows


def read_activitynet(path: str | os.PathLike, keys: Collection[str]) -> Annotations:
    """Rows of a file; `keys`, the features' or files' ids, may be with or without the `v_` before a video's id."""

    def clock(fields: Mapping[str, Any]) -> tuple[float, float]:
        return float(fields["duration"]), 1.0

    return _read(path, lambda name: known_id(keys, name, name.removeprefix("v_")), clock)


def read_tacos(path: str | os.PathLike, keys: Collection[str]) -> Annotations:
    """Rows of a file; `keys`, the features' or files' ids, may be with or without `.avi`. Frames become seconds."""

    def clock(fields: Mapping[str, Any]) -> tuple[float, float]:
        fps = float(fields["fps"])
        if not fps > 0:
            raise ValueError(f"fps is {fps}; expected frames a second > 0")
        return float(fields["num_frames"]) / fps, fps

    return _read(path, lambda name: known_id(keys, name, name.removesuffix(".avi")), clock)


def _read(
    path: str | os.PathLike, video_of: Callable[[str], str], clock: Callable[[Mapping[str, Any]], tuple[float, float]]
) -> Annotations:
    """Rows `VIDEO/number`.

    Args:
      video_of: key of the file -> video id.
      clock: object of a video -> (its seconds, units of `timestamps` in a second).
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is a {type(content).__name__}; expected an object of videos")
    name = pathlib.Path(path).name

    def parse(item: tuple[str, Mapping[str, Any]]) -> Iterator[Row]:
        key, fields = item
        duration_s, units = clock(fields)
        times, sentences = fields["timestamps"], fields["sentences"]
        if len(times) != len(sentences):
            raise ValueError(f"has {len(times)} timestamps and {len(sentences)} sentences; expected as many")
        rows = []
        for number, (pair, sentence) in enumerate(zip(times, sentences, strict=True)):
            moments = tuple((start / units, end / units) for start, end in intervals([pair]))
            rows.append(Row(f"{key}/{number}", video_of(key), " ".join(sentence.split()), moments, (), duration_s))
        yield from rows

    return Annotations(*read_rows([(f"{name} video {key}", (key, value)) for key, value in content.items()], parse))
