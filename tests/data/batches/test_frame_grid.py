"""The grid of frames that strategies compare."""

import numpy as np

from revision_jax.data.batches.frame_grid import TOP, FrameGrid, spread
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy


def test_frames_are_read_once(make_store, tmp_path, monkeypatch):
    directory, _ = make_store(tmp_path / "d", lengths=(200, 1000), fps=2.0)
    grid = FrameGrid(FeatureStore(directory), Hierarchy(window_s=20.0, num_frames=10))
    times, unit = grid.frames("v1")
    np.testing.assert_allclose(np.linalg.norm(unit.astype(np.float32), axis=1), 1, atol=1e-2)
    assert len(times) == len(unit) == 1000 and times[1] == 0.5
    monkeypatch.setattr(FeatureStore, "read", None)
    assert grid.frames("v1")[1] is unit


def test_spread_keeps_the_first_and_the_distance():
    assert spread(np.array([5.0, 7.0, 20.0, 11.0, 29.0]), 10).tolist() == [5.0, 20.0]
    assert len(spread(np.arange(0, 1000, 10.0), 10)) == TOP
