"""Text-to-video retrieval on a split of short videos: each is a clip, and each present query asks for its own.

Methods: the dense level alone (depth 1), the search with its upper levels, and CLIP's best frame.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from revision_jax.config import ConfigError
from revision_jax.evaluation import methods as m
from revision_jax.evaluation.evaluator import Evaluation, Scored
from revision_jax.evaluation.identity import file_digest
from revision_jax.metrics.retrieval import retrieval_scores
from revision_jax.runs.run import Run
from revision_jax.runs.splits import Split
from revision_jax.search.method import method_name
from revision_jax.search.packing.shared import NOTHING
from revision_jax.search.retrieval import score_clips

# Fields of a search that change how clips are ranked: all of them are asked, none is suppressed or cut off.
ACTING = (
    "confidence", "beam", "sampling", "drop_last_frame", "rescale", "similarity", "readings", "query_batch",
    "window_block", "decode_block", "question_tokens",
)  # fmt: skip


class ClipSearch:
    """The evaluator `clips`: see the module."""

    honours = frozenset(("split", "data", "out", "methods", "memory_gib", *(f"search.{name}" for name in ACTING)))
    chooses_on_val = False

    def __call__(self, evaluation: Evaluation) -> Scored:
        run, directory = evaluation.run, evaluation.directories[evaluation.split]
        split = run.split(evaluation.split, directory)
        check_short(split, run.hierarchy.window_s)
        scores, facts = _ratings(run, evaluation, split)
        compilations = facts.pop("compilations")
        data = {evaluation.split: file_digest(split)}
        return Scored({"data": data, "retrieval": {"methods": scores, **facts}, "compilations": compilations})


def check_short(split: Split, window_s: float) -> None:
    """Raises ValueError for a video longer than a window of `window_s` seconds."""
    videos = split.store.manifest.videos
    long = [name for name, info in videos.items() if info.duration_s > 1.01 * window_s]
    if long:
        raise ValueError(
            f"{split.store.path}: {len(long)} videos are longer than a window of {window_s} s, first "
            f"{long[0]!r}; expected short clips (data.video_s)."
        )


def _ratings(run: Run, evaluation: Evaluation, split: Split) -> tuple[dict[str, dict], dict[str, Any]]:
    """Method -> retrieval scores; and what was asked."""
    names = list(split.store.manifest.videos)
    clips = [split.store.read_all(name) for name in names]
    queries = [query for query in split.all_queries if query.present]
    texts = [query.sentence for query in queries]
    truth = np.array([names.index(query.video_id) for query in queries])
    options = evaluation.options
    searcher = run.searcher(run.models(), changes=options.search, memory_gib=options.memory_gib)
    searcher = m.with_fitted_questions(searcher, queries)
    asked = _chosen(options.methods, searcher.max_depth)
    sentences = run.sentences(texts, searcher.max_depth, "top_down", similar=True)
    scores, shared = {}, NOTHING
    for name, depth in asked.items():
        if name == m.CLIP:
            rating = best_frame(clips, sentences.similar)
        else:
            rating, shared = score_clips(searcher, clips, sentences, depth=depth, shared=shared)
        scores[name] = retrieval_scores(rating, truth)
    counters = {"search": {"programs": searcher.compile_count, "shapes": len(searcher.shapes)}}
    return scores, {"clips": len(clips), "queries": len(queries), "compilations": counters}


def _chosen(wanted: Sequence[str], max_depth: int) -> dict[str, int]:
    """Method -> depth, 0 for CLIP's best frame."""
    known = {m.CLIP: 0} | {method_name(depth, "top_down"): depth for depth in range(1, max_depth + 1)}
    strangers = [name for name in wanted if name not in known]
    if strangers:
        raise ConfigError(f"--methods names {', '.join(strangers)}; retrieval has {', '.join(known)}.")
    return {name: depth for name, depth in known.items() if not wanted or name in wanted}


def best_frame(clips: Sequence[np.ndarray], queries: np.ndarray) -> np.ndarray:
    """Cosine similarity of each query `[Q, D]` to the frame of each clip `[n, D]` most similar to it: `[Q, C]`."""
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    queries = unit(queries.astype(np.float32))
    return np.stack([(queries @ unit(clip.astype(np.float32)).T).max(axis=1) for clip in clips], axis=1)
