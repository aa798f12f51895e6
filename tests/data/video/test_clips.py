"""Clips: to the frame where they are encoded anew, from the key frame where they are copied; whole or not at all."""

from fractions import Fraction

import av
import numpy as np
import pytest

from revision_jax.data.video.clips import write_clip
from revision_jax.data.video.opening import VideoError

FPS, SECONDS = 10, 12


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Frame n has brightness 2 n; key frames every 20 frames; sound beside it."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"g": "20", "bf": "2", "sc_threshold": "0"})
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("aac", rate=16000)
        audio.layout = "mono"
        for number in range(FPS * SECONDS):
            picture = np.full((48, 64, 3), 2 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 16000, number * 1600, Fraction(1, 16000)
            container.mux(audio.encode(sound))
        container.mux(video.encode())
        container.mux(audio.encode())
    return path


def read(path):
    """(seconds, number of the frame in the film) of each picture; seconds of the last sound, or None."""
    with av.open(str(path)) as container:
        pictures = [(f.time, f.to_ndarray(format="rgb24").mean() / 2) for f in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = [f.time for f in container.decode(audio=0)] if container.streams.audio else []
    return pictures, max(sound, default=None)


def test_an_exact_clip_begins_and_ends_at_the_frame(film, tmp_path):
    write_clip(film, 3.3, 5.0, tmp_path / "clip.mkv", exact=True)
    pictures, sound = read(tmp_path / "clip.mkv")
    assert sound is None and len(pictures) == 17
    np.testing.assert_allclose([number for _, number in pictures], np.arange(33, 50), atol=1)
    np.testing.assert_allclose([time for time, _ in pictures], np.arange(17) / FPS, atol=2e-3)


def test_a_picture_that_stands_at_the_start_is_shown_from_there(film, tmp_path):
    write_clip(film, 3.35, 3.45, tmp_path / "clip.mkv", exact=True)
    pictures, _ = read(tmp_path / "clip.mkv")
    np.testing.assert_allclose([number for _, number in pictures], [33, 34], atol=1)


def test_a_copied_clip_begins_at_the_key_frame_before(film, tmp_path):
    write_clip(film, 3.3, 5.0, tmp_path / "new" / "clip.mkv")
    pictures, sound = read(tmp_path / "new" / "clip.mkv")
    np.testing.assert_allclose([number for _, number in pictures], np.arange(20, 50), atol=1)
    np.testing.assert_allclose([time for time, _ in pictures], np.arange(30) / FPS, atol=2e-3)
    assert sound == pytest.approx(3.0, abs=0.2)


def test_what_cannot_be_copied_is_encoded_anew_as_its_message_says(tmp_path):
    path = tmp_path / "film.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8"
        for number in range(20):
            picture = np.full((48, 64, 3), 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="rgb8")))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="Take --exact, which encodes them anew"):
        write_clip(path, 0.5, 1.5, tmp_path / "out/clip.mkv")
    assert not any((tmp_path / "out").iterdir())
    write_clip(path, 0.5, 1.5, tmp_path / "out/clip.mkv", exact=True)
    assert len(read(tmp_path / "out/clip.mkv")[0]) == 10


def test_what_cannot_be_read_leaves_nothing(tmp_path):
    (tmp_path / "text.mp4").write_text("no video\n" * 99)
    with pytest.raises(VideoError, match="a text file"):
        write_clip(tmp_path / "text.mp4", 0.0, 1.0, tmp_path / "out" / "clip.mkv")
    assert not any((tmp_path / "out").iterdir())
