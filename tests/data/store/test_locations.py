"""Where the videos of a data set lie: known, moved, gone."""

import json

import pytest

from revision_jax.data.store.locations import LOCATIONS, find_videos, save_locations


def test_files_are_found_where_they_were_or_in_the_data_set(tmp_path):
    data = tmp_path / "data"
    (data / "videos").mkdir(parents=True)
    for path in (tmp_path / "film.mkv", tmp_path / "outside.mp4", data / "videos/own.mp4"):
        path.touch()
    assert set(find_videos(data, ["film", "own"])) == {"own"}
    save_locations(data, {"film": tmp_path / "film.mkv", "gone": tmp_path / "gone.mp4"})
    ids = ["film", "own", "gone", "never", "../../outside"]
    assert find_videos(data, ids) == {"film": tmp_path / "film.mkv", "own": data / "videos/own.mp4"}
    (data / LOCATIONS).write_text(json.dumps({"film": 3}))
    with pytest.raises(ValueError, match=r"videos\.json: expected paths by video id"):
        find_videos(data, ids)
