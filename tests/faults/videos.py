"""Videos of strangers, by class: each with the pictures that a player shows, or the error that is right."""

import struct

import av
import numpy as np

from revision_jax.data.video.frames import write_video
from tests.data.video.test_clock import RATE, joined, silence, steady, write
from tests.data.video.test_opening import PLAYLISTS, png, special, with_reference
from tests.faults.cases import Case, Kind, fresh

FPS = 2.0
CUT = "incomplete|cut short|damage|without frames|still image|no whole|cannot|found"


def right(path, parts, duration_s=None, *, slack=0.15, error=""):
    """A case of (seconds, brightness) shown one after another."""
    shown = [number for seconds, number in parts for _ in range(round(seconds * FPS))]
    lasts_s = sum(seconds for seconds, _ in parts) if duration_s is None else duration_s
    return Case(path, {"shown": {"pictures": shown}, "duration_s": {"about": [lasts_s, slack]}}, error)


def pictures(parts, start_s=0.0):
    """Pictures of (seconds, brightness) parts."""
    found = []
    for seconds, number in parts:
        found += steady(seconds, number, start_s)
        start_s += seconds
    return found


def some_parts(rng, count=3):
    """Parts of whole seconds, and brightness that differs from one to the next."""
    numbers = rng.permutation(np.arange(2, 24, 3))[:count]
    return [(int(rng.integers(2, 6)), int(number)) for number in numbers]


def containers(folder, rng):
    for name in ("mp4", "mkv", "mov", "avi", "ts", "flv", "mpg", "vob"):
        parts = some_parts(rng)
        sound_s = sum(seconds for seconds, _ in parts) * float(rng.choice([0, 1]))
        yield right(write(folder / f"x.{name}", pictures(parts), sound_s), parts, slack=0.6)


def other_suffix(folder, rng):
    for name, suffix in (("mp4", "txt"), ("mkv", "mp4"), ("ts", "avi"), ("avi", "jpg"), ("flv", "m3u8")):
        parts = some_parts(rng)
        path = write(folder / f"x.{name}", pictures(parts)).rename(folder / f"y.{suffix}")
        yield right(path, parts, slack=0.6)


NAMES = (
    "img%03d.mp4",
    "*.mp4",
    "a b'c\".mp4",
    "-i.mp4",
    "file:x.mp4",
    "http:x.mp4",
    "concat:a|b.mp4",
    "ünï\u2028x.mp4",
)


def names(folder, rng):
    for name in NAMES:
        parts = some_parts(rng)
        yield right(write(fresh(folder) / "x.mp4", pictures(parts)).rename(folder / name), parts)


def uneven(folder, rng):
    """Pictures at odd times."""
    for _ in range(8):
        parts = some_parts(rng)
        frames = pictures(parts)
        kept = [0, *sorted(rng.choice(np.arange(1, len(frames)), len(frames) // 2, replace=False)), len(frames) - 1]
        frames = [frame for i, frame in enumerate(frames) if i in kept or i % 8 == 0]
        yield right(write(fresh(folder) / "x.mkv", frames), parts, slack=0.3)


def seams(folder, rng):
    for name in ("x.ts", "x.vob", "x.mkv", "x.ts", "x.vob", "x.mkv"):
        lengths = [int(length) for length in rng.integers(3, 9, 2)]
        path = joined(fresh(folder), name, lengths, bool(rng.integers(2)))
        yield right(path, [(lengths[0], 2), (lengths[1], 12)], slack=0.6)


def jumps(folder, rng):
    for _ in range(5):
        gap_s = float(rng.integers(11, 40_000))
        parts = some_parts(rng, 2)
        frames = pictures(parts[:1]) + pictures(parts[1:], parts[0][0] + gap_s)
        yield right(write(fresh(folder) / "x.ts", frames), parts, slack=0.3)
    for name in ("x.mp4", "x.mkv", "x.flv"):
        frames = steady(3, 2) + steady(3, 12, float(rng.integers(4000, 90_000)))
        yield Case(write(fresh(folder) / name, frames), None, "one picture")


def late(folder, rng):
    for name in ("x.mp4", "x.mkv", "x.mov", "x.mkv"):
        parts, start_s = some_parts(rng, 2), int(rng.integers(3, 20))
        sound_s = float(rng.choice([0.0, start_s + 9.0]))
        path = write(fresh(folder) / name, pictures(parts, start_s), sound_s)
        yield right(path, [(start_s + parts[0][0], parts[0][1]), parts[1]])
    for name in ("x.ts", "x.vob", "x.mkv"):
        parts, start_s = some_parts(rng, 2), int(rng.integers(4000, 80_000))
        yield right(write(fresh(folder) / name, pictures(parts, start_s)), parts, slack=0.3)


def long_sound(folder, rng):
    for name in ("x.mkv", "x.flv", "x.mp4", "x.avi", "x.ts", "x.mov"):
        parts = some_parts(rng, 2)
        sound_s = sum(seconds for seconds, _ in parts) + float(rng.integers(2, 6))
        yield right(write(fresh(folder) / name, pictures(parts), sound_s), parts, slack=0.3)


def no_pictures(folder, rng):
    for name in ("x.mp4", "x.mkv", "x.ts"):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            for packet in silence(stream, float(rng.integers(2, 6))):
                container.mux(packet)
        yield Case(folder / name, None, "only audio|no video stream")
    for name in ("x.png", "png.mp4", "png.mkv"):
        (folder / name).write_bytes(png(8, 8))
        yield Case(folder / name, None, "a still image")
    for size in ((60_000, 60_000), (200_000, 30_000)):
        path = folder / f"{size[0]}.png"
        path.write_bytes(png(*size))
        yield Case(path, None, "limit|still image")


def cut(folder, rng):
    """Of containers that declare their length, or need their end."""
    for name in ("x.mp4", "x.mov", "x.mkv", "x.flv", "x.mp4", "x.mkv", "x.flv", "x.mp4"):
        path = write(fresh(folder) / name, pictures([(5, 4), (5, 9), (5, 20)]), float(rng.choice([0, 15])))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * rng.uniform(0.02, 0.85))])
        yield Case(path, None, CUT)


def flipped(folder, rng):
    """Bits of the media data: told, or the times are right."""
    for name in ("x.mp4", "x.mkv", "x.avi", "x.ts") * 6:
        noise = rng.integers(0, 25, 150)
        path = write(fresh(folder) / name, [(i / RATE, int(number)) for i, number in enumerate(noise)])
        raw = bytearray(path.read_bytes())
        for at in rng.integers(len(raw) // 4, 3 * len(raw) // 4, int(rng.integers(1, 9))):
            raw[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(raw)
        yield Case(path, {"shown": {"count": 12}, "duration_s": {"about": [6.0, 0.6]}}, CUT)


def no_video(folder, rng):
    contents = {"empty.mp4": b"", "zeros.mkv": bytes(5000), "noise.mp4": rng.bytes(5000), "noise.ts": rng.bytes(50_000)}
    contents |= {"text.mp4": b"a film\n" * 50, "json.mp4": b'{"a": 1}', "html.avi": b"<html><body>no</body></html>"}
    contents |= {
        "zip.mp4": b"PK\x03\x04" + rng.bytes(500),
        "elf.mkv": b"\x7fELF" + rng.bytes(500),
        "srt.ts": b"1\n00:00:01,000 --> 00:00:02,000\na\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        yield Case(folder / name, None, "found")


def playlists(folder, rng):
    write_video(folder / "secret.mp4", [np.full((20, 32, 32, 3), 20, np.uint8)], 5)
    write(folder / "secret.ts", steady(3, 9))
    for name, text in PLAYLISTS.items():
        (folder / name).write_text(text)
        yield Case(folder / name, None, "a playlist")
    for name in ("img%03d.png", "*.png", "sec*.mp4"):
        yield Case(folder / name, None, "no such file")
    good = (folder / "secret.mp4").read_bytes()
    for number, target in enumerate((b"file://" + bytes(folder / "secret.ts"), b"secret.ts", b"/etc/passwd")):
        path = folder / f"reference{number}.mp4"
        path.write_bytes(with_reference(good, target))
        yield right(path, [(4, 2)])  # its own bytes: where a reference leads is not looked at


def no_files(folder, rng):
    for kind in ("fifo", "socket", "loop"):
        (folder / kind).mkdir()
        yield Case(special(kind, folder / kind), None, "a pipe|a socket|a link that leads")
    yield Case(folder, None, "a directory")
    yield Case(folder / "missing.mp4", None, "no such file")
    yield Case(folder / ("x" * 300), None, "too long")


def sizes(folder, rng):
    """An mp4 whose header says other sizes than its pictures have."""
    for width, height in ((65_535, 65_535), (0, 0), (32, 65_535)):
        path = write(folder / f"{width}-{height}.mp4", steady(4, 7))
        raw = bytearray(path.read_bytes())
        at = raw.index(b"mp4v") + 4 + 6 + 2 + 16
        raw[at : at + 4] = struct.pack(">HH", width, height)
        path.write_bytes(raw)
        yield right(path, [(4, 7)], error="limit|pixels|sides|found")


KINDS = [
    Kind("containers, with and without sound", 8, containers),
    Kind("a suffix of another container", 5, other_suffix),
    Kind("names that look like patterns, options, addresses", 8, names),
    Kind("pictures at odd times", 8, uneven),
    Kind("recordings joined by cat", 6, seams),
    Kind("a clock that jumps", 8, jumps),
    Kind("pictures that start late", 7, late),
    Kind("sound longer than the pictures", 6, long_sound),
    Kind("sound alone, still images", 8, no_pictures),
    Kind("cut short", 8, cut),
    Kind("flipped bits", 24, flipped),
    Kind("no video at all", 10, no_video),
    Kind("playlists, patterns, references", 12, playlists),
    Kind("no regular file", 6, no_files),
    Kind("sizes that the header invents", 3, sizes),
]
