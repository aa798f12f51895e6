"""Frames copied in place equal those of the records; what is not found is left to the reader."""

import numpy as np
import pytest

from revision_jax.data.store import mapped
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.store.mapped import BLOCK, HEADER, MappedShard, physical


def test_bytes_are_counted_without_the_blocks_headers():
    content = [place for place in range(3 * BLOCK) if place % BLOCK >= HEADER]
    np.testing.assert_array_equal(physical(np.arange(len(content))), content)


@pytest.fixture(scope="module")
def wide(make_store, tmp_path_factory):
    """Records of 98 KB, as with CLIP L/14: every one has a block's header amid its frames."""
    directory, arrays = make_store(tmp_path_factory.mktemp("mapped") / "d", lengths=(300, 1000, 64), width=768)
    return directory, arrays


def test_every_frame_is_the_same_through_the_reader_and_in_place(wide):
    directory, arrays = wide
    store, rng = FeatureStore(directory), np.random.default_rng(0)
    for again in range(2):
        for video_id, array in arrays.items():
            np.testing.assert_array_equal(store.read(video_id, np.arange(len(array))), array)
            frames = rng.integers(len(array), size=(5, 7))
            np.testing.assert_array_equal(store.read(video_id, frames), array[frames])
        # All but the last, padded, chunk of a video are found after the first pass, and that one too.
        assert store._mapped[0].found(np.arange(22)).all(), again


def test_a_read_fills_the_row_it_is_given(wide):
    directory, arrays = wide
    store, batch = FeatureStore(directory), np.zeros((3, 10, 768), np.float16)
    for _ in range(2):
        store.read("v1", np.arange(100, 200, 10), batch[1])
        np.testing.assert_array_equal(batch[1], arrays["v1"][100:200:10])
        assert not batch[0].any() and not batch[2].any()
    for bad in (np.zeros((10, 768)), np.zeros((9, 768), np.float16), np.zeros((10, 1536), np.float16)[:, ::2]):
        with pytest.raises(ValueError, match="expected contiguous float16"):
            store.read("v1", np.arange(10), bad)


def test_after_the_first_read_the_reader_is_not_asked_again(wide, monkeypatch):
    directory, arrays = wide
    store = FeatureStore(directory)
    store.read("v0", np.arange(128))
    asked, read = [], FeatureStore._chunks
    monkeypatch.setattr(FeatureStore, "_chunks", lambda self, *a: asked.append(a) or read(self, *a))
    np.testing.assert_array_equal(store.read("v0", np.arange(3, 120, 7)), arrays["v0"][3:120:7])
    assert asked == []
    np.testing.assert_array_equal(store.read("v0", np.arange(100, 250, 3)), arrays["v0"][100:250:3])
    assert asked == [("v0", 2, 3), ("v0", 3, 4)]


def test_what_is_not_found_is_read_through_the_reader(wide, monkeypatch):
    directory, arrays = wide
    monkeypatch.setattr(MappedShard, "_matches", lambda *_: False)
    store = FeatureStore(directory)
    for _ in range(2):
        np.testing.assert_array_equal(store.read("v1", np.arange(0, 900, 9)), arrays["v1"][0:900:9])
    assert not store._mapped[0].found(np.arange(22)).any()


def test_features_of_zeros_are_not_mistaken(tmp_path, builder_parts):
    """Every place looks alike: only the whole payload tells."""
    array_builder, extractor, _ = builder_parts
    arrays = {"v0": np.zeros((200, 64), np.float16), "v1": np.ones((130, 64), np.float16)}
    array_builder(tmp_path / "d", arrays, extractor(width=64)).prepare()
    store = FeatureStore(tmp_path / "d")
    for _ in range(2):
        for video_id, array in arrays.items():
            np.testing.assert_array_equal(store.read(video_id, np.arange(len(array))), array)


def test_a_file_shorter_than_a_frame(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 10)
    shard = MappedShard(tmp_path / "f", 1, 1536)
    shard.locate(0, np.zeros(98304, np.uint8))
    assert not shard.found(0) and shard._logical[0] == mapped.ABSENT
