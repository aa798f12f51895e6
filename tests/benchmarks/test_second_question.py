"""The film has the form and the length that are said; the parts are read as `ground --timings` writes them."""

import numpy as np
import pytest

from revision_jax.benchmarks.second_question import Form, make_film, timings
from revision_jax.data.builders import shapes_world as world
from revision_jax.data.video.frames import probe, read_frames


def test_a_minute_is_repeated_to_the_length(tmp_path):
    make_film(tmp_path / "film.mp4", Form(96, 64, 2), 3)
    found = probe(tmp_path / "film.mp4")
    assert (found.width, found.height, found.fps, found.codec) == (96, 64, 2.0, "h264")
    reader = read_frames(tmp_path / "film.mp4", 1.0, 64)
    frames = np.concatenate(list(reader)).astype(int)
    assert reader.duration_s == pytest.approx(180.0) and len(frames) == 180
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    shown = world.make_video("test", 0).frames(np.array([20.0]))[0].astype(int)
    for minute in range(3):
        assert np.abs(frames[60 * minute + 20] - shown).mean() < 8


def test_parts_are_read_from_the_line_of_timings():
    told = "start 3.1 s  videos 240.0 s  search 1.2 s  all 244.4 s"
    assert timings(told) == {"start": 3.1, "videos": 240.0, "search": 1.2, "all": 244.4}
