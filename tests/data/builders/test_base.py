"""Builders: resumable video by video, never mixed, readable by TFDS itself."""

import fcntl
import resource
import signal
import sys
import threading

import numpy as np
import pytest
import tensorflow_datasets as tfds

from revision_jax.data.annotations.queries import Query, load_queries
from revision_jax.data.builders import base
from revision_jax.data.store.features import FeatureStore

QUERIES = [Query("q", "v1", "A thing.", ((1.0, 2.0),))]


def test_a_killed_run_continues_with_the_next_video(tmp_path, builder_parts):
    array_builder, extractor, make_arrays = builder_parts
    arrays = make_arrays((70, 64, 10))
    progress = []
    with pytest.raises(RuntimeError, match="killed"):
        array_builder(tmp_path / "d", {**arrays, "v2": None}, extractor()).prepare()
    assert not (tmp_path / "d" / "manifest.json").exists()
    builder = array_builder(tmp_path / "d", arrays, extractor(), QUERIES)
    assert builder.prepare(lambda *counts: progress.append(counts)) == tmp_path / "d"
    assert builder.made == ["v2"] and progress == [(2, 3), (3, 3)]
    store = FeatureStore(tmp_path / "d")
    for video_id, array in arrays.items():
        np.testing.assert_array_equal(store.read_all(video_id), array)
    assert load_queries(tmp_path / "d" / "queries.jsonl", store.durations) == QUERIES
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == [
        ".lock",
        "features",
        "manifest.json",
        "queries.jsonl",
    ]

    again = array_builder(tmp_path / "d", arrays, extractor(), QUERIES)
    again.prepare()
    assert again.made == []


def test_a_second_process_says_that_it_waits(tmp_path, builder_parts, caplog):
    array_builder, extractor, make_arrays = builder_parts
    lock = (tmp_path / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    threading.Timer(0.3, lock.close).start()
    with caplog.at_level("INFO", "revision_jax"):
        array_builder(tmp_path, make_arrays((10,)), extractor()).prepare()
    assert f"{tmp_path} is being made by another process; waits for it" in caplog.text


def test_killed_after_the_shards_were_written(tmp_path, builder_parts, monkeypatch):
    array_builder, extractor, make_arrays = builder_parts
    arrays = make_arrays((70, 10))

    def fail(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(base, "save_queries", fail)
        array_builder(tmp_path / "d", arrays, extractor()).prepare()
    builder = array_builder(tmp_path / "d", arrays, extractor())
    builder.prepare()
    assert builder.made == []
    np.testing.assert_array_equal(FeatureStore(tmp_path / "d").read_all("v1"), arrays["v1"])


@pytest.mark.parametrize("finished", [True, False])
def test_another_encoder_or_source_is_refused(tmp_path, builder_parts, finished):
    array_builder, extractor, make_arrays = builder_parts
    arrays = make_arrays((70, 10))
    if finished:
        array_builder(tmp_path / "d", arrays, extractor()).prepare()
    else:
        with pytest.raises(RuntimeError, match="killed"):
            array_builder(tmp_path / "d", {**arrays, "v1": None}, extractor()).prepare()
    for other in (extractor(fingerprint="1" * 64), extractor(fps=1.0)):
        with pytest.raises(ValueError, match="Use another directory"):
            array_builder(tmp_path / "d", arrays, other).prepare()
    with pytest.raises(ValueError, match="Use another directory"):
        array_builder(tmp_path / "d", make_arrays((70, 10, 5)), extractor()).prepare()


@pytest.mark.parametrize("bad", [np.zeros((5, 9), "f2"), np.zeros((0, 8), "f2"), np.zeros((5, 8), "f4")])
def test_wrong_width_length_or_dtype_is_refused(tmp_path, builder_parts, bad):
    array_builder, extractor, _ = builder_parts
    with pytest.raises(ValueError, match=r"'v0': features are .* expected float16 \[N, 8\]"):
        array_builder(tmp_path / "d", {"v0": bad}, extractor()).prepare()


def test_not_finite_features_are_refused_before_they_are_stored(tmp_path, builder_parts):
    array_builder, extractor, make_arrays = builder_parts
    arrays = make_arrays((70,))
    arrays["v0"][41, 2] = np.inf
    with pytest.raises(ValueError, match="'v0': frame 41 has NaN or infinity"):
        array_builder(tmp_path / "d", arrays, extractor()).prepare()


def test_videos_are_spread_over_shards_and_never_cut(tmp_path, builder_parts, monkeypatch):
    array_builder, extractor, make_arrays = builder_parts
    monkeypatch.setattr(base, "SHARD_BYTES", 5000)
    arrays = make_arrays((100, 200, 150, 300, 64))  # 16 bytes a frame
    array_builder(tmp_path / "d", arrays, extractor()).prepare()
    store = FeatureStore(tmp_path / "d")
    assert len(store.manifest.shards) > 2
    for video_id, array in arrays.items():
        np.testing.assert_array_equal(store.read_all(video_id), array)


def test_tfds_reads_it_without_tensorflow(tmp_path, builder_parts):
    array_builder, extractor, make_arrays = builder_parts
    arrays = make_arrays((70, 64))
    array_builder(tmp_path / "d", arrays, extractor()).prepare()
    builder = tfds.builder_from_directory(str(next((tmp_path / "d" / "features").glob("*/1.0.0"))))
    source = builder.as_data_source("train")
    assert [(row["video_id"], int(row["chunk"])) for row in source] == [(b"v0", 0), (b"v0", 1), (b"v1", 0)]
    np.testing.assert_array_equal(source[2]["features"], arrays["v1"])
    np.testing.assert_array_equal(source[1]["features"][:6], arrays["v0"][64:])
    assert not source[1]["features"][6:].any()
    assert "tensorflow" not in sys.modules


def test_a_disk_that_fills_up_while_shards_are_written(tmp_path, builder_parts):
    array_builder, extractor, make_arrays = builder_parts
    arrays = make_arrays((4000,) * 4)
    builder = array_builder(tmp_path / "d", arrays, extractor())
    pack, limits = builder._pack, resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))
        try:
            pack()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    builder._pack = limited
    try:
        with pytest.raises(Exception) as failure:
            builder.prepare()
    finally:
        signal.signal(signal.SIGXFSZ, handler)
    assert isinstance(failure.value, OSError | RuntimeError | ValueError), failure.value
    assert not (tmp_path / "d/manifest.json").exists()
    array_builder(tmp_path / "d", arrays, extractor()).prepare()
    store = FeatureStore(tmp_path / "d")
    for video_id, array in arrays.items():
        np.testing.assert_array_equal(store.read_all(video_id), array)


def test_a_large_data_set_has_larger_files_not_more(tmp_path, builder_parts, monkeypatch):
    array_builder, extractor, make_arrays = builder_parts
    monkeypatch.setattr(base, "SHARD_BYTES", 2000)
    monkeypatch.setattr(base, "MAX_FILES", 3)
    array_builder(tmp_path / "d", make_arrays((300,) * 12), extractor()).prepare()
    assert 1 < len(FeatureStore(tmp_path / "d").manifest.shards) <= 4
