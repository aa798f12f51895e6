"""Pictures at given seconds, by seeking: the right one, small, upright; damage is named."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from revision_jax.data.video import thumbnails as module
from revision_jax.data.video.frames import write_video
from revision_jax.data.video.opening import VideoError
from revision_jax.data.video.thumbnails import SIDE, thumbnails

FPS, SECONDS, STEP = 10, 40, 6


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """320 x 96; brighter by `STEP` every second; key frames every 25 s."""
    pictures = (np.full((1, 96, 320, 3), STEP * (n // FPS), np.uint8) for n in range(FPS * SECONDS))
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    write_video(path, pictures, FPS)
    return path


def pixels(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_each_second_has_its_picture(video):
    times = [0.0, 0.9, 12.5, 24.95, 33.0, 500.0]
    found = thumbnails(video, times)
    assert [*found] == times
    for time_s, jpeg in found.items():
        assert pixels(jpeg).shape == (SIDE * 96 // 320, SIDE, 3) and len(jpeg) < 4000
        assert abs(pixels(jpeg).mean() - STEP * min(int(time_s), SECONDS - 1)) < 3, time_s


def test_no_more_are_made_when_time_is_up_or_too_much_lies_between(video, monkeypatch):
    assert thumbnails(video, [1.0, 2.0], until=time.perf_counter() - 1) == {}
    monkeypatch.setattr(module, "MOST_DECODED", 10)
    (jpeg,) = thumbnails(video, [20.0]).values()
    assert pixels(jpeg).mean() < STEP * 3  # the tenth picture from the key frame on


def test_what_is_no_video_is_refused(tmp_path, video):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match="text file"):
        thumbnails(tmp_path / "text.mp4", [1.0])
