"""The benchmark of the loaders: every form gives the windows of our store, and every figure is there."""

import json

import numpy as np
import pytest

from revision_jax.benchmarks import loaders, pipeline


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(pipeline, "MOVIE_S", 700.0)


def test_every_loader_is_compared(small, tmp_path, capsys):
    flags = ["--gigabytes", "0.01", "--windows", "32", "--repeat", "1", "--rest", "0", "--folder", str(tmp_path)]
    loaders.main(flags)
    report = json.loads(capsys.readouterr().out)
    assert report["benchmark"] == "loaders" and report["windows"] == 32
    assert [row["peer_is"] for row in report["beside"]] == list(loaders.PEERS) * 2
    assert [row["ours_is"] for row in report["beside"]] == [loaders.PIPELINE] * 3 + [loaders.STORE] * 3
    assert all(row["ours"]["median"] > 0 and row["peer"]["median"] > 0 for row in report["beside"])
    assert not list(tmp_path.iterdir())


def test_a_loader_that_reads_other_frames_is_told():
    same = np.arange(6).reshape(2, 3)
    loaders.check_equal({loaders.STORE: iter([same]), "h5py": iter([same.copy()])})
    with pytest.raises(ValueError, match="'h5py' gives other features than our store"):
        loaders.check_equal({loaders.STORE: iter([same]), "h5py": iter([same + 1])})
