"""Text-to-video retrieval on a split of short videos: each is a clip, and each present query asks for its own.

Methods: the dense level alone (depth 1), the search with its upper levels, and CLIP's best frame.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from revision_jax.evaluation import methods as m
from revision_jax.evaluation.predictions import write_json
from revision_jax.metrics.retrieval import retrieval_scores
from revision_jax.report.table import print_rows
from revision_jax.runs.splits import make_extractor
from revision_jax.search.retrieval import join_clips, score_clips
from revision_jax.search.sentences import Sentences

COLUMNS = ("R@1", "R@5", "R@10", "median_rank", "chance_R@1")


def evaluate_clips(
    config: ConfigDict, workdir: str | Path, grounder, upper, *, directory: Path, mesh, split: str
) -> dict:  # fmt: skip
    """Scores retrieval among the videos of a split, prints the table, writes `workdir/eval/retrieval.json`.

    Args:
      config, workdir: of the upper levels' run, whose data are short videos.
      grounder, upper: dense and upper levels.
      directory: of the split.

    Raises:
      ValueError: a video longer than a window.
    """
    data = m.Split.open(config, directory, split, grounder.visual_width)
    videos = data.store.manifest.videos
    long = [name for name, info in videos.items() if info.duration_s > 1.01 * config.hierarchy.window_s]
    if long:
        raise ValueError(
            f"{directory}: {len(long)} videos are longer than a window of {config.hierarchy.window_s} s, first "
            f"{long[0]!r}; expected short clips (data.video_s)."
        )
    names = list(videos)
    clips = [data.store.read_all(name) for name in names]
    queries = [query for query in data.all_queries if query.present]
    texts = [query.sentence for query in queries]
    truth = np.array([names.index(query.video_id) for query in queries])
    searcher, extractor = m.make_searcher(config, grounder, mesh, queries, upper), make_extractor(config, mesh)
    sentences = Sentences(texts, *m.query_tokens(extractor, texts, config.prompt.query_tokens))
    ratings = {"clip": best_frame(clips, extractor.encode_queries(texts))}
    shared = m.shared_vectors(searcher, *join_clips(searcher, clips), sentences)
    for depth in range(1, searcher.max_depth + 1):
        ratings[f"depth{depth}"] = score_clips(searcher, clips, sentences, depth=depth, vectors=shared)
    scores = {name: retrieval_scores(rating, truth) for name, rating in ratings.items()}
    metrics = {"split": split, "clips": len(clips), "queries": len(queries), "methods": scores}
    write_json(Path(workdir) / "eval" / "retrieval.json", metrics)
    print_retrieval(metrics)
    return metrics


def best_frame(clips: Sequence[np.ndarray], queries: np.ndarray) -> np.ndarray:
    """Cosine similarity of each query `[Q, D]` to the frame of each clip `[n, D]` most similar to it: `[Q, C]`."""
    unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    queries = unit(queries.astype(np.float32))
    return np.stack([(queries @ unit(clip.astype(np.float32)).T).max(axis=1) for clip in clips], axis=1)


def print_retrieval(metrics: Mapping) -> None:
    rows = [[name, *(f"{scores[column]:.1f}" for column in COLUMNS)] for name, scores in metrics["methods"].items()]
    title = f"{metrics['split']}: {metrics['queries']} queries, {metrics['clips']} clips"
    print_rows(title, "Percent, but for the rank.", ["method", *COLUMNS], rows)
