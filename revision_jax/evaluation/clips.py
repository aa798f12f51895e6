"""Text-to-video retrieval on a split of short videos: each is a clip, and each present query asks for its own.

Methods: the dense level alone (depth 1), the search with its upper levels, and CLIP's best frame.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from revision_jax.config import ConfigError
from revision_jax.evaluation import methods as m
from revision_jax.evaluation.evaluator import Evaluation, Scored
from revision_jax.metrics.retrieval import retrieval_scores
from revision_jax.runs.run import Run
from revision_jax.runs.splits import Split
from revision_jax.search.retrieval import clip_windows, score_clips


class ClipSearch:
    """The evaluator `clips`: see the module."""

    honours = frozenset(("split", "data", "out", "search", "methods", "memory_gib"))
    chooses_on_val = False

    def __call__(self, evaluation: Evaluation) -> Scored:
        run, directory = evaluation.run, evaluation.directories[evaluation.split]
        split = run.split(evaluation.split, directory)
        check_short(split, run.hierarchy.window_s)
        scores, facts = _ratings(run, evaluation, split)
        return Scored({"retrieval": {"methods": scores, **facts}})


def check_short(split: Split, window_s: float) -> None:
    """Raises ValueError for a video longer than a window of `window_s` seconds."""
    videos = split.store.manifest.videos
    long = [name for name, info in videos.items() if info.duration_s > 1.01 * window_s]
    if long:
        raise ValueError(
            f"{split.store.path}: {len(long)} videos are longer than a window of {window_s} s, first "
            f"{long[0]!r}; expected short clips (data.video_s)."
        )
