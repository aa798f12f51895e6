"""The benchmark of the pipeline: its loaders give the windows they say, and every figure is there."""

import itertools
import json

import numpy as np
import pytest

from revision_jax.benchmarks import pipeline as benchmark
from revision_jax.data.store.features import FeatureStore


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "MOVIE_S", 700.0)
        yield benchmark.make_data(tmp_path_factory.mktemp("benchmark"), 0.01)


def test_all_loaders_read_the_same_windows(split):
    store = FeatureStore(split)
    mapped, raw = next(benchmark.mapped_batches(split)), next(benchmark.raw_batches(split))
    for row, (video_id, start) in zip(mapped, itertools.islice(benchmark.windows(split), benchmark.BATCH)):
        frames = benchmark.HIERARCHY.frame_indices(start, start + 125.0, 5.0, 3500)
        np.testing.assert_array_equal(row, store.read(video_id, frames))
    assert benchmark.BATCH * 10 <= len(raw) <= benchmark.BATCH * 12  # 625 frames lie in 10 to 11 records of 64
    batch = next(benchmark.pipeline_batches(split, 2, 2))
    assert batch["video"].shape == mapped.shape and batch["video"].dtype == mapped.dtype == np.float16


def test_every_figure_is_there(split, capsys):
    benchmark.main(["--data", str(split), "--windows", "640"])
    found = json.loads(capsys.readouterr().out)
    assert found["benchmark"] == "pipeline" and found["windows"] == 640
    for loader in ("memory_mapped", "raw_records", "pipeline_1_threads", "pipeline_2_threads"):
        for state in ("cold", "warm", "again"):
            assert found[loader][state]["windows_per_s"] > 0
    assert 1.0 < found["raw_records"]["warm"]["read_ratio"] <= 1.3
    for name in ("pipeline_1_threads", "pipeline_2_threads"):
        assert found[name]["warm"]["read_ratio"] <= 1.3 and found["share_of_raw"][name] > 0


def test_batches_of_stage_2_are_measured(split, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "GROUP", 5)
    assert next(benchmark.group_batches(split, 1, 1))["video"].shape == (8, 5, 250, 768)
    benchmark.main(["--groups", "--data", str(split), "--windows", "80", "--threads", "2"])
    found = json.loads(capsys.readouterr().out)["groups_2_threads"]
    assert found["again"]["windows_per_s"] > 0 and found["least_cpu_us_per_window"] > 0
