"""Retrieval among short videos."""

import numpy as np
import pytest

from revision_jax.evaluation.clips import best_frame, check_short
from revision_jax.runs.run import Run


def test_the_most_similar_frame_ranks_a_clip():
    clips = [np.array([[1.0, 0.0], [0.0, 0.1]]), np.array([[0.0, 9.0]] * 3), np.array([[-1.0, 0.0]])]
    scores = best_frame([clip.astype(np.float16) for clip in clips], np.array([[2.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(scores, [[1, 0, -1], [1, 1, 0]], atol=1e-3)


def test_videos_longer_than_a_window_are_refused(trained_run):
    split = Run.load(trained_run.workdir).split("test")
    check_short(split, 130.0)
    with pytest.raises(ValueError, match=r"2 videos are longer than a window of 16\.0 s"):
        check_short(split, 16.0)
