"""The clock: a moment is where a player shows it, whatever the container, the joins and the delays."""

import logging
from fractions import Fraction

import av
import numpy as np
import pytest

from revision_jax.data.video.clock import MAX_GAP_S
from revision_jax.data.video.frames import VideoError, probe, read_frames

SIZE = 32
RATE = 25
CODECS = {"ts": ("libx264", "aac"), "flv": ("flv", "aac"), "mpg": ("mpeg2video", "mp2"), "vob": ("mpeg2video", "mp2")}


def write(path, pictures, sound_s=0.0, *, sound_first=False):
    """A file of (start in seconds, brightness in tens), and `sound_s` seconds of silence from 0 on, if any."""
    codec, sound_codec = CODECS.get(path.suffix[1:], ("mpeg4", "aac"))
    with av.open(str(path), "w") as container:
        sound = container.add_stream(sound_codec, rate=16000, layout="mono") if sound_first else None
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        if sound_s and not sound_first:
            sound = container.add_stream(sound_codec, rate=16000, layout="mono")
        packets = []
        for time_s, number in pictures:
            frame = av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), 10 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time_s * RATE), Fraction(1, RATE)
            packets += stream.encode(frame)
        packets += stream.encode()
        if sound:
            packets += silence(sound, sound_s)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def silence(stream, length_s):
    packets, size = [], 1024 if stream.name == "aac" else 1152
    kind = np.int16 if stream.format.name.startswith("s16") else np.float32
    for i in range(int(length_s * 16000 / size)):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, size), kind), format=stream.format.name, layout="mono")
        frame.sample_rate, frame.pts = 16000, i * size
        packets += stream.encode(frame)
    return [*packets, *stream.encode()]


def steady(length_s, number, start_s=0.0):
    """Pictures of one brightness for some seconds."""
    return [(start_s + i / RATE, number) for i in range(round(length_s * RATE))]


def read(path, fps=2.0):
    """(numbers of the sampled pictures, duration)."""
    reader = read_frames(path, fps, SIZE)
    frames = np.concatenate(list(reader))
    return np.round(frames.mean(axis=(1, 2, 3)) / 10).astype(int).tolist(), reader.duration_s


def joined(tmp_path, name, lengths, sound=False):
    """Recordings of some seconds each, one byte after another; number i is of brightness 2 + 10 i."""
    parts = [
        write(tmp_path / f"{i}{name}", steady(length, 2 + 10 * i), length if sound else 0.0)
        for i, length in enumerate(lengths)
    ]
    path = tmp_path / name
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("name", ["x.ts", "x.vob", "x.mkv", "x.avi"])
@pytest.mark.parametrize("lengths", [(6, 6), (4, 9), (9, 4)])
def test_parts_joined_by_cat_play_one_after_another(tmp_path, name, lengths, sound, caplog):
    path = joined(tmp_path, name, lengths, sound)
    with caplog.at_level(logging.WARNING):
        shown, duration_s = read(path)
    assert duration_s == pytest.approx(sum(lengths), abs=0.6)
    wanted = [2] * 2 * lengths[0] + [12] * 2 * lengths[1]
    assert abs(len(shown) - len(wanted)) <= 1 and sum(a != b for a, b in zip(shown, wanted, strict=False)) <= 1
    told = "starts again" in caplog.text and str(path) in caplog.text
    assert told != (name == "x.avi")  # which counts pictures and has no times


@pytest.mark.parametrize("name", ["x.mp4", "x.mov", "x.flv"])
def test_a_recording_that_players_do_not_reach_is_told(tmp_path, name, caplog):
    with caplog.at_level(logging.WARNING):
        read(joined(tmp_path, name, (4,), sound=True))
        assert not caplog.text
        path = joined(tmp_path, name, (4, 9), sound=True)
        assert read(path)[1] == pytest.approx(4, abs=0.1)
    assert f"another recording begins at byte {(tmp_path / f'0{name}').stat().st_size}" in caplog.text


def test_the_length_of_a_stream_is_not_guessed(tmp_path):
    assert probe(joined(tmp_path, "x.ts", (4, 9))).duration_s is None


def jumped(tmp_path, gap_s, name="x.ts", sound_s=0.0):
    """6 seconds, a gap in the clock, 6 seconds."""
    return write(tmp_path / name, steady(6, 2) + steady(6, 12, 6 + gap_s), sound_s)


@pytest.mark.parametrize("gap_s", [30, 36000])
def test_a_jump_of_a_streams_clock_is_told_and_closed(tmp_path, gap_s, caplog):
    with caplog.at_level(logging.WARNING):
        shown, duration_s = read(jumped(tmp_path, gap_s))
    assert (shown, duration_s) == ([2] * 12 + [12] * 12, pytest.approx(12.0, abs=0.05))
    assert "jumps forward" in caplog.text


def test_a_picture_that_stands_still_while_the_sound_goes_on_is_no_jump(tmp_path):
    shown, duration_s = read(jumped(tmp_path, 30, sound_s=42))
    assert duration_s == pytest.approx(42, abs=0.2) and shown[8:70] == [2] * 4 + [2] * 58 and shown[75] == 12


@pytest.mark.parametrize(("name", "gap_s"), [("x.mp4", 36e3), ("x.flv", 36e3), ("x.mkv", 36e3), ("x.mkv", 1e9)])
def test_a_picture_for_hours_is_refused(tmp_path, name, gap_s):
    path = jumped(tmp_path, gap_s, name)
    with pytest.raises(VideoError, match="one picture for") as error:
        read(path)
    assert str(path) in str(error.value)


def test_a_slide_for_many_minutes_is_kept(tmp_path):
    shown, duration_s = read(jumped(tmp_path, MAX_GAP_S - 60, "x.mkv"), 0.1)
    assert duration_s == pytest.approx(12 + MAX_GAP_S - 60, abs=0.05) and len(shown) == 356


def test_a_part_whose_clock_is_far_behind_is_joined(tmp_path):
    late, early = write(tmp_path / "a.ts", steady(6, 2, 5000)), write(tmp_path / "b.ts", steady(6, 12))
    path = tmp_path / "x.ts"
    path.write_bytes(late.read_bytes() + early.read_bytes())
    shown, duration_s = read(path)
    assert (shown, duration_s) == ([2] * 12 + [12] * 12, pytest.approx(12.0, abs=0.1))


@pytest.mark.parametrize("name", ["x.mkv", "x.flv", "x.mp4", "x.avi", "x.ts"])
def test_sound_longer_than_the_picture_is_whole(tmp_path, name):
    shown, duration_s = read(write(tmp_path / name, steady(8, 2), 11))
    assert duration_s == pytest.approx(8, abs=0.15) and shown[:16] == [2] * 16


@pytest.mark.parametrize("name", ["x.mkv", "x.mp4", "x.ts"])
def test_a_picture_after_the_sound_in_the_file_is_whole(tmp_path, name):
    path = write(tmp_path / name, steady(3, 2) + steady(3, 12, 3), 6, sound_first=True)
    frames = np.concatenate(list(read_frames(path, RATE, SIZE)))
    assert len(frames) in (150, 151, 152) and (frames[-70:].mean(axis=(1, 2, 3)) > 100).all()


@pytest.mark.parametrize("name", ["x.mkv", "x.flv"])
def test_a_cut_file_with_sound_is_still_refused(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 25, 200)
    path = write(tmp_path / name, [(i / RATE, int(n)) for i, n in enumerate(noise)], 11)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"cut short|damage"):
        read(path)


@pytest.mark.parametrize(("name", "sound_s"), [("x.mp4", 0), ("x.mp4", 14), ("x.mov", 0), ("x.mkv", 0), ("x.mkv", 14)])
def test_a_picture_that_starts_late_is_where_a_player_shows_it(tmp_path, name, sound_s, caplog):
    path = write(tmp_path / name, steady(3, 2, 10) + steady(3, 12, 13), sound_s)
    with caplog.at_level(logging.WARNING):
        shown, duration_s = read(path)
    assert (shown, duration_s) == ([2] * 26 + [12] * 6, pytest.approx(16.0, abs=0.05))
    assert probe(path).duration_s == pytest.approx(16.0, abs=0.05)
    assert "first picture comes after 10.00 s" in caplog.text


@pytest.mark.parametrize("name", ["x.mkv", "x.mp4", "x.flv", "x.avi"])
def test_a_late_picture_that_ends_before_the_sound_is_whole(tmp_path, name):
    """So late that FFmpeg has not seen it when it says how long its track is."""
    path = write(tmp_path / name, steady(8, 2, 13), 22)
    assert read(path)[1] == pytest.approx(21.0, abs=0.15)


@pytest.mark.parametrize("name", ["x.ts", "x.vob"])
def test_a_broadcast_counts_from_its_earliest_stream(tmp_path, name):
    shown, duration_s = read(write(tmp_path / name, steady(3, 2, 7000) + steady(3, 12, 7003)))
    assert (shown, duration_s) == ([2] * 6 + [12] * 6, pytest.approx(6.0, abs=0.05))


def test_a_clock_that_begins_after_hours_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        shown, duration_s = read(write(tmp_path / "x.mkv", steady(3, 2, 7000)))
    assert (shown, duration_s) == ([2] * 6, pytest.approx(3.0, abs=0.05))
    assert "its clock begins at 7000 s" in caplog.text


def test_a_late_picture_in_a_broadcast_with_sound(tmp_path):
    shown, duration_s = read(write(tmp_path / "x.ts", steady(3, 2, 5) + steady(3, 12, 8), 12))
    assert duration_s == pytest.approx(11.0, abs=0.1) and shown[:16] == [2] * 16 and shown[17:22] == [12] * 5


def test_steps_back_that_hide_pictures_are_told(tmp_path, caplog):
    path = tmp_path / "x.mkv"
    order = [0.0, 0.04, 0.08, 0.02, 0.06, 0.12, 0.16, 1.0]  # jitter, no seam
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = SIZE, SIZE, "yuvj420p", Fraction(1, 1000)
        for number, time_s in enumerate(order):
            frame = av.VideoFrame.from_ndarray(np.full((SIZE, SIZE, 3), 10 * number, np.uint8), format="rgb24")
            for packet in stream.encode(frame.reformat(format="yuvj420p")):
                packet.pts, packet.dts, packet.time_base = round(1000 * time_s) + 10, number, Fraction(1, 1000)
                container.mux(packet)
    with caplog.at_level(logging.WARNING):
        read(path)
    assert "step back" in caplog.text
