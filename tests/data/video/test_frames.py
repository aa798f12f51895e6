"""Decoding: the frame shown at each sample time, whatever the file; one clear error for every bad file."""

import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest

from revision_jax.data.video.frames import VideoError, probe, read_frames, write_video

SIZE = 32


def numbered(number, height=SIZE, width=SIZE):
    """A grey picture whose brightness says its number (0..24)."""
    return np.full((height, width, 3), 10 * number, np.uint8)


def write_times(path, times_s, codec="mpeg4", height=SIZE, width=SIZE, end_s=None, audio=False, **stream_options):
    """A file whose picture number i is shown from times_s[i] on (variable frame rate, milliseconds)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=1000)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = 5
        stream.codec_context.max_b_frames = 0
        if "rotation" in stream_options:
            stream.set_display_rotation(stream_options["rotation"])
        if "aspect" in stream_options:
            stream.codec_context.sample_aspect_ratio = stream_options["aspect"]
        for number, time_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(numbered(number, height, width), format="rgb24")
            frame.pts, frame.time_base = round(time_s * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        for packet in stream.encode():
            container.mux(packet)


def numbers(batches):
    """The numbers of the pictures in a reader's batches."""
    frames = np.concatenate(list(batches))
    assert frames.dtype == np.uint8
    return np.round(frames.mean(axis=(1, 2, 3)) / 10).astype(int).tolist()


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi", "x.mov"])
def test_constant_rate_in_any_container(tmp_path, name):
    path = tmp_path / name
    write_video(path, [np.stack([numbered(i) for i in range(20)])], 5, "mpeg4")
    assert numbers(read_frames(path, 5, SIZE)) == list(range(20))
    reader = read_frames(path, 1, SIZE, batch=3)
    assert numbers(reader) == [0, 5, 10, 15]
    assert reader.duration_s == pytest.approx(4.0, abs=2e-3)
    assert numbers(read_frames(path, 10, SIZE)) == [i // 2 for i in range(40)]


def test_h264_with_reordered_frames(tmp_path):
    path = tmp_path / "b.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"bf": "3", "preset": "medium"})
        stream.width = stream.height = SIZE
        for number in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number), format="rgb24")))
        container.mux(stream.encode())
    assert numbers(read_frames(path, 5, SIZE)) == list(range(20))


def test_variable_rate_uses_the_frame_shown(tmp_path):
    path = tmp_path / "vfr.mkv"
    times = [0.0, 0.1, 0.2, 1.9, 2.0, 2.05, 4.9, 5.3, 5.4]
    write_times(path, times)
    shown = [np.searchsorted(times, t + 1e-3, side="right") - 1 for t in np.arange(0, 5.4, 0.5)]
    assert numbers(read_frames(path, 2, SIZE)) == shown


def test_a_late_first_frame_is_shown_from_the_start(tmp_path):
    path = tmp_path / "late.mkv"
    write_times(path, [7.5 + i / 4 for i in range(16)])
    reader = read_frames(path, 1, SIZE)
    assert numbers(reader) == [0] * 8 + [2, 6, 10, 14]
    assert reader.duration_s == pytest.approx(11.5, abs=0.26)


def test_batches_are_bounded_and_whole(tmp_path):
    path = tmp_path / "x.mp4"
    write_video(path, (np.stack([numbered(i % 25)] * 10) for i in range(10)), 10)
    assert [len(batch) for batch in read_frames(path, 10, SIZE, batch=32)] == [32, 32, 32, 4]


def test_short_side_is_scaled_and_the_centre_kept(tmp_path):
    path = tmp_path / "wide.mp4"
    picture = np.zeros((64, 192, 3), np.uint8)
    picture[:, 64:128] = 250  # the middle third is the centre square
    write_video(path, [picture[None].repeat(5, 0)], 5)
    frames = np.concatenate(list(read_frames(path, 5, 32)))
    assert frames.shape == (5, 32, 32, 3) and frames[:, :, 2:-2].min() > 230
    tall = tmp_path / "tall.mp4"
    write_video(tall, [picture.transpose(1, 0, 2)[None].repeat(5, 0)], 5)
    assert np.concatenate(list(read_frames(tall, 5, 32)))[:, 2:-2].min() > 230


def test_rotation_is_honoured(tmp_path):
    path = tmp_path / "turned.mp4"
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[: SIZE // 2] = 200  # bright on top
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = SIZE
        stream.set_display_rotation(90)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    turned = np.rot90(picture, round(probe(path).rotation / 90))
    assert abs(probe(path).rotation) == 90
    frames = next(read_frames(path, 5, SIZE)).astype(int)
    assert np.abs(frames[0] - turned).mean() < 12
    assert np.abs(frames[0] - picture).mean() > 60


def test_pixels_that_are_not_square(tmp_path):
    path = tmp_path / "anamorphic.mp4"
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 16:48] = 250  # shown twice as wide: the middle half is the centre square
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert next(read_frames(path, 5, 32))[:, :, 2:-2].min() > 220


def test_probe(tmp_path):
    path = tmp_path / "x.mp4"
    write_video(path, [np.stack([numbered(i) for i in range(20)])], 5)
    found = probe(path)
    assert (found.duration_s, found.fps, found.width, found.height, found.rotation) == (
        4.0,
        5.0,
        SIZE,
        SIZE,
        0,
    )
    assert found.codec == "h264" and "mp4" in found.container


def write_audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def bad_file(kind, directory):
    """A path that is not a usable video."""
    path = directory / f"{kind}.mp4"
    if kind == "text":
        path = directory / "notes.txt"
        path.write_text("a red circle moves left\n" * 50)
    elif kind == "text named mp4":
        path.write_text("a red circle moves left\n" * 50)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "directory":
        path.mkdir()
    elif kind == "audio":
        write_audio(path)
    elif kind == "truncated":  # the index of an mp4 stands at its end
        write_video(path, [np.stack([numbered(i % 25) for i in range(100)])], 5)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("missing", "no such file"),
        ("directory", "a directory"),
        ("text", "text file"),
        ("text named mp4", "no video at all"),
        ("empty", "no video at all"),
        ("audio", "only audio"),
        ("truncated", "incomplete or damaged"),
    ],
)
@pytest.mark.parametrize("read", [lambda path: next(read_frames(path, 1, SIZE)), probe])
def test_bad_files_raise_one_clear_line(tmp_path, kind, found, read):
    path = bad_file(kind, tmp_path)
    with pytest.raises(VideoError, match=found) as error:
        read(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mkv"])
def test_file_shorter_than_declared(tmp_path, name):
    whole, path = tmp_path / f"whole.{name[-3:]}", tmp_path / name
    noise = np.random.default_rng(0).integers(0, 255, (100, SIZE, SIZE, 3), np.uint8)
    with av.open(str(whole), "w", options={"movflags": "faststart"} if name.endswith("mp4") else {}) as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = SIZE
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    assert len(np.concatenate(list(read_frames(whole, 5, SIZE)))) == 100
    data = whole.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    with pytest.raises(VideoError, match=r"cut short|damage"):
        list(read_frames(path, 5, SIZE))
    kept = np.concatenate(list(read_frames(path, 5, SIZE, allow_truncated=True)))
    assert 30 < len(kept) < 75


def test_an_interrupted_write_leaves_no_video(tmp_path):
    def frames():
        yield np.stack([numbered(0)])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "x.mp4", frames(), 5)
    assert not (tmp_path / "x.mp4").exists()


def test_memory_does_not_grow_with_the_video(tmp_path):
    path = tmp_path / "long.mp4"
    write_video(path, (np.stack([numbered(i % 25, 128, 128)] * 10) for i in range(60)), 10)
    tracemalloc.start()
    try:
        frames = sum(len(batch) for batch in read_frames(path, 10, 128, batch=16))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert frames == 600
    assert peak < 0.2 * frames * 128 * 128 * 3
