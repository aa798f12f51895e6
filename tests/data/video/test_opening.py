"""Only the named file is opened, whatever it holds; what it is instead of a video is said; sizes have a limit."""

import contextlib
import ctypes
import os
import socket
import struct
import zlib

import av
import numpy as np
import pytest

from revision_jax.data.video import opening
from revision_jax.data.video.frames import VideoError, probe, read_frames, read_image, write_video

SIZE = 32


def pictures(count, number=2):
    return [np.full((count, SIZE, SIZE, 3), 10 * number, np.uint8)]


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """A good video beside which hostile files lie."""
    folder = tmp_path_factory.mktemp("strangers")
    write_video(folder / "secret.mp4", pictures(20), 5)
    with av.open(str(folder / "secret.ts"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = SIZE
        for picture in pictures(20)[0]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    for number in range(3):
        (folder / f"img{number:03d}.png").write_bytes(png(8, 8))
    return folder


def png(width, height):
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = (
        zlib.compress(b"\0" + b"\x50" * 3 * 8) if width > 8 else zlib.compress((b"\0" + b"\x50" * 3 * width) * height)
    )
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nsecret.ts\n#EXT-X-ENDLIST\n"
PLAYLISTS = {
    "hls.m3u8": HLS,
    "hls.mp4": HLS,
    "bom.ts": "\ufeff" + HLS,
    "concat.mp4": "ffconcat version 1.0\nfile secret.mp4\n",
    "dash.mp4": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>secret.mp4</BaseURL></MPD>',
    "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
}


def with_reference(data: bytes, target: bytes) -> bytes:
    """An mp4 (moov at its end) whose pictures are said to lie in another file."""
    alias = target + b"\0"
    entry = struct.pack(">I4sI", 12 + len(alias), b"url ", 0) + alias
    table = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    old = data.index(b"dref") - 4
    length = struct.unpack(">I", data[old : old + 4])[0]
    out = bytearray(data[:old] + table + data[old + length :])
    for name in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        at = out.index(name) - 4
        out[at : at + 4] = struct.pack(">I", struct.unpack(">I", out[at : at + 4])[0] + len(table) - length)
    return bytes(out)


@pytest.mark.parametrize("name", PLAYLISTS)
@pytest.mark.parametrize("read", [lambda path: next(read_frames(path, 1, SIZE)), probe, lambda p: read_image(p, SIZE)])
def test_playlists_under_any_name_are_refused(secret, name, read):
    path = secret / name
    path.write_text(PLAYLISTS[name])
    with pytest.raises(VideoError, match="a playlist, which names other files") as error:
        read(path)
    assert str(error.value).startswith(str(path))


def test_patterns_of_names_are_names(secret):
    for name in ("img%03d.png", "*.png", "img00?.png"):
        with pytest.raises(VideoError, match="no such file"):
            read_image(secret / name, 8)
        odd = secret / name
        odd.write_bytes((secret / "secret.mp4").read_bytes())
        assert len(np.concatenate(list(read_frames(odd, 5, SIZE)))) == 20
        odd.unlink()


class Opened:
    """Names in a folder that this process, FFmpeg included, opens: as the kernel tells (inotify)."""

    def __init__(self, folder):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._events = self._libc.inotify_init1(os.O_NONBLOCK)
        assert self._libc.inotify_add_watch(self._events, bytes(folder), 0x20) >= 0  # IN_OPEN

    def names(self):
        """What was opened since the last call."""
        try:
            data = os.read(self._events, 1 << 16)
        except BlockingIOError:
            return set()
        found = set()
        while data:
            size = 16 + struct.unpack("iIII", data[:16])[3]
            found.add(data[16:size].rstrip(b"\0").decode())
            data = data[size:]
        return found


def test_no_other_file_is_opened(secret):
    good = (secret / "secret.mp4").read_bytes()
    (secret / "reference.mp4").write_bytes(with_reference(good, b"file://" + bytes(secret / "secret.ts")))
    for name, text in PLAYLISTS.items():
        (secret / name).write_text(text)
    opened = Opened(secret)
    for name in ["reference.mp4", "secret.mp4", "img000.png", *PLAYLISTS]:
        for read in (probe, lambda path: list(read_frames(path, 1, SIZE)), lambda path: read_image(path, SIZE)):
            with contextlib.suppress(VideoError):
                read(secret / name)
            assert opened.names() == {name}
    os.close(opened._events)


def special(kind, folder):
    """A path that is no regular file."""
    path = folder / "x.mp4"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        listener = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(folder)  # a socket's path is short
        listener.bind("x.mp4")
        os.chdir(here)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "device":
        return "/dev/zero"
    elif kind == "long":
        return str(folder / ("x" * 5000))
    elif kind == "nul":
        return f"{folder}/a\0b.mp4"
    elif kind == "line":
        return f"{folder}/a\nb.mp4"
    return path


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("fifo", "a pipe"),
        ("socket", "a socket"),
        ("device", "a device"),
        ("loop", "a link that leads to itself"),
        ("long", "a path that is too long"),
        ("nul", "a path that no file can have"),
        ("line", "no such file"),
    ],
)
@pytest.mark.parametrize("read", [lambda path: next(read_frames(path, 1, SIZE)), probe])
def test_what_is_no_regular_file_is_said(tmp_path, kind, found, read):
    path = special(kind, tmp_path)
    with pytest.raises(VideoError, match=found) as error:
        read(path)
    assert len(str(error.value)) < 600 and str(error.value).isprintable()


def test_a_size_beyond_the_limit_is_refused_before_it_is_allocated(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    path.write_bytes(png(60000, 60000))
    with pytest.raises(VideoError, match=r"beyond the limit.*134217728 pixels"):
        read_image(path, SIZE)
    path = tmp_path / "x.mp4"
    write_video(path, pictures(5), 5)
    monkeypatch.setattr(opening, "MAX_PIXELS", 1000)
    for read in (probe, lambda p: next(read_frames(p, 1, SIZE))):
        with pytest.raises(VideoError, match=r"32 x 32 pixels; expected at most 1000 pixels|beyond the limit"):
            read(path)


def test_a_size_that_grows_on_the_way_is_refused_by_the_decoder(tmp_path, monkeypatch):
    parts = []
    for side in (32, 128):
        part = tmp_path / f"{side}.h264"
        write_video(part, [np.full((20, side, side, 3), 90, np.uint8)], 5)
        parts.append(part.read_bytes())
    path = tmp_path / "x.h264"
    path.write_bytes(b"".join(parts))
    assert sum(map(len, read_frames(path, 5, SIZE))) > 30
    monkeypatch.setattr(opening, "MAX_PIXELS", 64 * 64)
    with pytest.raises(VideoError, match=r"damage|limit") as error:
        list(read_frames(path, 5, SIZE))
    assert str(error.value).startswith(str(path))


def test_a_picture_as_a_line_is_refused(tmp_path):
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = 4000, 2, "yuv420p"
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(np.zeros((2, 4000, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="sides of at most 100 to 1"):
        list(read_frames(path, 1, SIZE))


def test_a_still_image_is_told_as_one(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png(8, 8))
    for name in ("x.png", "x.mp4"):
        (tmp_path / name).write_bytes(path.read_bytes())
        with pytest.raises(VideoError, match="a still image"):
            list(read_frames(tmp_path / name, 1, SIZE))
        with pytest.raises(VideoError, match="a still image"):
            probe(tmp_path / name)
        assert read_image(tmp_path / name, SIZE).shape == (SIZE, SIZE, 3)


def gif(path, delays_s):
    from PIL import Image

    images = [Image.fromarray(np.full((SIZE, SIZE, 3), 40 * i, np.uint8)) for i in range(len(delays_s))]
    delays = [round(1000 * s) for s in delays_s]
    images[0].save(path, save_all=True, append_images=images[1:], duration=delays, loop=0)
    return path


def test_the_last_picture_of_a_gif_has_its_own_length(tmp_path):
    reader = read_frames(gif(tmp_path / "x.gif", [0.5, 1.0, 3.0]), 2, SIZE)
    shown = np.round(np.concatenate(list(reader)).mean(axis=(1, 2, 3)) / 40).tolist()
    assert (shown, reader.duration_s) == ([0, 1, 1] + [2] * 6, pytest.approx(4.5))
    with pytest.raises(VideoError, match="a still image"):
        list(read_frames(gif(tmp_path / "one.gif", [0.5]), 2, SIZE))


def test_titles_in_another_encoding_do_not_matter(tmp_path):
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Grösse"
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = SIZE
        for picture in pictures(5)[0]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace("Grösse".encode(), b"Gr\xf6\xdfsse"))
    assert probe(path).fps == 5
