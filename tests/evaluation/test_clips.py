"""Retrieval among short videos, from their files to the table."""

import json

import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from revision_jax.evaluation.clips import best_frame, evaluate_clips
from revision_jax.models.adapter import SparseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.parallel.mesh import make_mesh
from revision_jax.runs.grounder import restore_grounder
from revision_jax.runs.splits import prepare_data


def test_the_most_similar_frame_ranks_a_clip():
    clips = [np.array([[1.0, 0.0], [0.0, 0.1]]), np.array([[0.0, 9.0]] * 3), np.array([[-1.0, 0.0]])]
    scores = best_frame([clip.astype(np.float16) for clip in clips], np.array([[2.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(scores, [[1, 0, -1], [1, 1, 0]], atol=1e-3)


def test_short_videos_are_ranked(trained_run, tmp_path, capsys):
    config = ConfigDict(trained_run.config.to_dict())
    config.data.update(dir=str(tmp_path / "clips"), video_s=40.0, test_videos=6, groups="videos")
    config.hierarchy.window_s = 40.0
    mesh = make_mesh(**config.mesh)
    grounder, _ = restore_grounder(trained_run.config, trained_run.workdir, mesh)
    sparse = SparseAdapter(12, 16, rngs=nnx.Rngs(5), mlp_width=8, num_heads=2, num_layers=1)
    upper = Grounder(grounder.llm, sparse=sparse)
    directory = prepare_data(config, mesh, splits=("test",))["test"]
    metrics = evaluate_clips(config, tmp_path, grounder, upper, directory=directory, mesh=mesh, split="test")
    assert metrics["clips"] == 6 and metrics["queries"] > 0
    assert set(metrics["methods"]) == {"clip", "depth1", "depth2", "depth3"}
    for scores in metrics["methods"].values():
        assert 0 <= scores["R@1"] <= scores["R@5"] <= scores["R@10"] == 100.0 and 1 <= scores["median_rank"] <= 6
    assert json.loads((tmp_path / "eval/retrieval.json").read_text()) == metrics
    assert "median_rank" in capsys.readouterr().out
    config.hierarchy.window_s = 16.0
    with pytest.raises(ValueError, match=r"6 videos are longer than a window of 16\.0 s"):
        evaluate_clips(config, tmp_path, grounder, upper, directory=directory, mesh=mesh, split="test")
