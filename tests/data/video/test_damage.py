"""Damaged files: a result or one clear error that names the file; no traceback, no hang."""

import random
import time

import pytest

from revision_jax.data.video.frames import VideoError, probe, read_frames
from tests.data.video.test_clock import write

FILES = 40  # of each container
NAMES = ("x.mp4", "x.mkv", "x.ts", "x.vob", "x.flv", "x.avi")


def damaged(data, others, rng):
    """Bytes with bits turned, cut, with noise or zeros inside, a broken head, turned around, or joined to others."""
    data, kind, at = bytearray(data), rng.randrange(7), rng.randrange(len(data))
    if kind == 0:
        for _ in range(rng.choice([1, 10, 200])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data = data[:at]
    elif kind == 2:
        data[at:at] = rng.randbytes(rng.randrange(1, 3000))
    elif kind == 3:
        data[at : at + 1000] = bytes(len(data[at : at + 1000]))
    elif kind == 4:
        for _ in range(8):
            data[rng.randrange(min(800, len(data)))] = rng.choice([0, 127, 128, 255])
    elif kind == 5:
        data = data[at:] + data[:at]
    else:
        data += rng.choice(others)
    return bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("whole"), random.Random(0)
    pictures = [(i / 25, rng.randrange(25)) for i in range(75)]
    return {name: write(folder / name, pictures, 3).read_bytes() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_a_result_or_a_clear_error(tmp_path, name, whole):
    rng, path = random.Random(name), tmp_path / name
    for _ in range(FILES):
        path.write_bytes(damaged(whole[name], list(whole.values()), rng))
        started = time.monotonic()
        for read in (probe, lambda path: sum(map(len, read_frames(path, 5, 32)))):
            try:
                read(path)
            except VideoError as error:
                assert str(error).startswith(str(path)) and "\n" not in str(error)
        assert time.monotonic() - started < 20
