"""Kept features: by content, encoder and rate; bounded; a damaged entry is made again. And finding videos."""

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.data.video.feature_cache import FeatureCache
from revision_jax.data.video.finding import find_videos, is_path


class Encoder(SimpleNamespace):
    """Counts what it encodes; its features are the size of the file."""

    def __init__(self, **changes):
        super().__init__(**dict(fingerprint="a", fps=2.0, width=3, calls=0) | changes)

    def encode_video(self, path):
        self.calls += 1
        return VideoFeatures(np.full((4, self.width), os.path.getsize(path), np.float16), 2.0, self.fps)


@pytest.fixture
def film(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"x" * 100)
    return tmp_path / "film.mp4"


def test_one_content_is_encoded_once(film, tmp_path):
    cache, encoder = FeatureCache(tmp_path / "cache"), Encoder()
    first = cache.encode(encoder, film)
    copy = shutil.copy(film, tmp_path / "copy.mkv")
    for again in (cache.encode(encoder, film), FeatureCache(tmp_path / "cache").encode(encoder, copy)):
        np.testing.assert_array_equal(again.features, first.features)
        assert (again.duration_s, again.fps, again.features.dtype) == (2.0, 2.0, np.float16)
    assert encoder.calls == 1
    film.write_bytes(b"y" * 101)
    assert cache.encode(encoder, film).features[0, 0] == 101 and encoder.calls == 2


@pytest.mark.parametrize("changes", [{"fingerprint": "b"}, {"fps": 3.0}])
def test_another_encoder_or_rate_has_entries_of_its_own(changes, film, tmp_path):
    cache, other = FeatureCache(tmp_path / "cache"), Encoder(**changes)
    cache.encode(Encoder(), film)
    assert cache.encode(other, film).fps == other.fps and other.calls == 1


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", "width", "nan"])
def test_a_damaged_entry_is_made_again(damage, film, tmp_path):
    cache, encoder = FeatureCache(tmp_path / "cache"), Encoder()
    cache.encode(encoder, film)
    (entry,) = (tmp_path / "cache").glob("*.npz")
    if isinstance(damage, bytes):
        entry.write_bytes(damage)
    else:
        features = np.full((4, 3 if damage == "nan" else 2), np.nan if damage == "nan" else 1, np.float16)
        np.savez(entry, features=features, duration_s=2.0)
    assert cache.encode(encoder, film).features.shape == (4, 3) and encoder.calls == 2
    assert cache.encode(encoder, film).features[0, 0] == 100 and encoder.calls == 2


def test_the_folder_has_a_bound_and_the_oldest_goes_first(tmp_path):
    encoder, films = Encoder(), []
    for number in range(3):
        films.append(tmp_path / f"{number}.mp4")
        films[-1].write_bytes(bytes([number]) * (number + 1))
    one = FeatureCache(tmp_path / "probe")
    one.encode(Encoder(), films[0])
    size = next((tmp_path / "probe").glob("*.npz")).stat().st_size
    cache = FeatureCache(tmp_path / "cache", max_bytes=2 * size + 10)
    for film in films[:2]:
        cache.encode(encoder, film)
        for entry in (tmp_path / "cache").glob("*.npz"):
            os.utime(entry, (entry.stat().st_mtime - 100,) * 2)
    left = tmp_path / "cache/0123.4567"  # by a process that was killed while it wrote
    left.write_bytes(bytes(size))
    os.utime(left, (1, 1))
    cache.encode(encoder, films[0])  # used just now: the other is the oldest
    cache.encode(encoder, films[2])
    assert len(list((tmp_path / "cache").glob("*.npz"))) == 2 and not left.exists()
    cache.encode(encoder, films[0])
    assert encoder.calls == 3
    cache.encode(encoder, films[1])
    assert encoder.calls == 4


def test_a_folder_that_cannot_be_written_is_told_and_the_answer_comes(film, tmp_path, caplog):
    (tmp_path / "cache").touch()
    assert FeatureCache(tmp_path / "cache").encode(Encoder(), film).duration_s == 2.0
    assert "film.mp4 are not kept" in caplog.text


def test_videos_of_files_and_folders(tmp_path):
    for name in ("b/z.MP4", "b/a.mkv", "b/deep/c.webm", "b/notes.txt", "b/.hidden.mp4", "film.odd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    named = [str(tmp_path / "film.odd"), str(tmp_path / "b"), str(tmp_path / "b/a.mkv"), str(tmp_path / "gone.mp4")]
    found = [path.removeprefix(f"{tmp_path}/") for path in find_videos(named)]
    assert found == ["film.odd", "b/a.mkv", "b/deep/c.webm", "b/z.MP4", "gone.mp4"]
    assert is_path(named[0]) and is_path("gone.MOV") and is_path("some/where") and is_path("/tmp")
    assert not is_path("a star/circle pair spins") and not is_path("a star spins")
