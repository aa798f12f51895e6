"""`videos.json`: where the video files of a data set lay when it was prepared. No part of what the data set is."""

import os
import pathlib
from collections.abc import Iterable, Mapping

from revision_jax.files import write_json
from revision_jax.text import read_object

LOCATIONS = "videos.json"
OWN = "videos"  # folder of files that a data set holds itself


def save_locations(directory: str | os.PathLike, files: Mapping[str, os.PathLike]) -> None:
    """Writes absolute paths by video id."""
    paths = {video_id: os.path.abspath(file) for video_id, file in sorted(files.items())}
    write_json(pathlib.Path(directory) / LOCATIONS, paths)


def find_videos(directory: str | os.PathLike, video_ids: Iterable[str]) -> dict[str, pathlib.Path]:
    """Video id -> its file, of those whose file is known and still there.

    Raises:
      ValueError: `videos.json` is no object of texts.
    """
    directory = pathlib.Path(directory)
    known = read_object(directory / LOCATIONS) if (directory / LOCATIONS).is_file() else {}
    if not all(isinstance(path, str) for path in known.values()):
        raise ValueError(f"{directory / LOCATIONS}: expected paths by video id; remove it, or prepare again")
    there = {}
    for video_id in video_ids:
        places = [known[video_id]] if video_id in known else []
        if pathlib.PurePath(video_id).name == video_id:  # an id may be any text
            places.append(directory / OWN / f"{video_id}.mp4")
        for path in map(pathlib.Path, places):
            if path.is_file():
                there[video_id] = path
                break
    return there
