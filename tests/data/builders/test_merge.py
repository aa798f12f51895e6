"""Shards: together they are one run; what is missing, damaged or interrupted is found and named."""

import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds

from revision_jax.data.annotations.gaps import load_gaps
from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.annotations.rows import Annotations, Row
from revision_jax.data.builders import merge as module
from revision_jax.data.builders.annotated import Imported
from revision_jax.data.builders.merge import merge_shards
from revision_jax.data.check import check_splits
from revision_jax.data.store.features import FeatureStore, Manifest
from revision_jax.data.video.extraction import Encoder

ENCODER = Encoder("L/14", "a" * 64, 8, 2.0)


class Arrays:
    """A feature source in memory."""

    def __init__(self, arrays):
        self.arrays = arrays

    def keys(self):
        return sorted(self.arrays)

    def read(self, key):
        return self.arrays[key]

    def identity(self):
        return {"arrays": len(self.arrays)}


@pytest.fixture
def build(builder_parts):
    arrays = builder_parts[2]((70, 200, 64, 33, 150, 90, 20))
    rows = [
        Row(f"q{n}", video_id, "It happens.", ((1.0, 3.0),))
        for n, video_id in enumerate([*arrays, "v9", "v0", "v5"] * 2)
    ]
    rows[3] = dataclasses.replace(rows[3], moments=((500.0, 501.0),))

    def make(directory, shard=(0, 1), encoder=ENCODER):
        return Imported(
            directory, "train", encoder, Annotations(rows), Arrays(arrays), name="test", shard=shard
        ).prepare()

    return make


def content(directory):
    """All that a data set says, but for the names of its files."""
    store = FeatureStore(directory)
    plain = dataclasses.replace(store.manifest, shards=())
    features = {video_id: store.read_all(video_id).tobytes() for video_id in store.video_ids}
    queries = load_queries(directory / "queries.jsonl", store.durations)
    return plain, features, queries, load_gaps(directory / "gaps.jsonl")


@pytest.mark.parametrize("count", [2, 3, 8])
def test_merged_shards_equal_one_run(tmp_path, build, count):
    build(tmp_path / "one")
    order = list(reversed(range(count)))
    if count == 8:  # 8 videos are annotated, one has no features: its shard has nothing to store
        with pytest.raises(ValueError, match="none of 1 videos can be used: 1 video missing"):
            build(tmp_path / "many", (7, 8))
        return
    for index in order:
        build(tmp_path / "many", (index, count))
    assert merge_shards(tmp_path / "many") == tmp_path / "many"
    assert content(tmp_path / "many") == content(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == [
        "features", "gaps.jsonl", "manifest.json", "queries.jsonl",
    ]  # fmt: skip
    merge_shards(tmp_path / "many")  # again: nothing to do
    source = tfds.builder_from_directory(str(tmp_path / "many/features/imported/1.0.0")).as_data_source("train")
    assert len(source) == sum(shard.records for shard in FeatureStore(tmp_path / "many").manifest.shards)
    np.testing.assert_array_equal(source[0]["features"], FeatureStore(tmp_path / "one").read("v0", np.arange(64)))


def test_missing_and_unfinished_shards_are_named(tmp_path, build):
    build(tmp_path, (1, 3))
    with pytest.raises(FileNotFoundError, match=r"of 3 shards these are missing or unfinished: 0, 2. .* --shard 0/3"):
        merge_shards(tmp_path)
    assert "prepare merge" in check_splits({"train": tmp_path})["train"][0].detail
    build(tmp_path, (0, 2))
    with pytest.raises(FileNotFoundError, match="expected the shards of one run"):
        merge_shards(tmp_path)


def test_shards_of_different_encoders_are_refused(tmp_path, build):
    build(tmp_path, (0, 2))
    build(tmp_path, (1, 2), dataclasses.replace(ENCODER, fingerprint="b" * 64))
    with pytest.raises(ValueError, match=r"00001-of-00002: encoder_sha256 'bbb.*Prepare that shard again"):
        merge_shards(tmp_path)


def test_a_flipped_bit_stops_the_merge(tmp_path, build):
    for index in range(2):
        build(tmp_path, (index, 2))
    file = next((tmp_path / "shards/00001-of-00002").rglob("*array_record*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"00001-of-00002.*(damaged|checksum|ArrayRecord)"):
        merge_shards(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("where", ["_verify", "save_queries", "save_gaps"])
def test_an_interrupted_merge_is_no_data_set_and_is_done_again(tmp_path, build, monkeypatch, where):
    build(tmp_path / "one")
    for index in range(2):
        build(tmp_path / "many", (index, 2))

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, where, fail)
        merge_shards(tmp_path / "many")
    with pytest.raises(FileNotFoundError, match="no manifest"):
        Manifest.load(tmp_path / "many")
    (gap,) = check_splits({"train": tmp_path / "many"})["train"]
    assert gap.kind == "unfinished" and "run `prepare merge`" in gap.detail
    merge_shards(tmp_path / "many")
    assert content(tmp_path / "many") == content(tmp_path / "one")


def test_a_merge_stopped_at_its_end_is_told_and_finished(tmp_path, build, monkeypatch):
    for index in range(2):
        build(tmp_path, (index, 2))
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: None)
        merge_shards(tmp_path)
    assert check_splits({"train": tmp_path})["train"][0].kind == "unfinished"
    merge_shards(tmp_path)
    assert all(gap.kind in ("video missing", "outside video") for gap in check_splits({"train": tmp_path})["train"])
