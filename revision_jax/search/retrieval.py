"""Text-to-video retrieval: which of many short clips shows the event? MSRVTT's protocol.

Letters: C clips, Q queries, D feature width, F frames a window.

All clips stand one after another as a single long video, each of them a window; that video is searched bottom-up,
and clips are ranked by the confidence of their answers. Clips that answered `Not Present` come after all others, in
the order of the upper levels' scores.
"""

from collections.abc import Sequence

import numpy as np

from revision_jax.search.layout import VideoWindows
from revision_jax.search.searcher import Searcher, SparseVectors


def score_clips(
    searcher: Searcher, clips: Sequence[np.ndarray], sentences: Sequence[str], *, depth: int | None = None,
    query_tokens=None, vectors: SparseVectors | None = None,
) -> np.ndarray:  # fmt: skip
    """How well each clip answers each sentence: `[Q, C]` int64, the better the higher; alike if nothing parts them.

    Args:
      clips: features `[n, D]` of each, any n of at least 1; F of its frames are taken evenly.
      depth: default: as deep as the searcher can. 1 has no upper levels.
      query_tokens, vectors: see `Searcher.search`; windows are `clip_windows` of the clips.
    """
    depth = searcher.max_depth if depth is None else depth
    hierarchy = searcher.hierarchy
    features = np.concatenate(clips)
    windows = clip_windows([len(clip) for clip in clips], hierarchy.window_s, hierarchy.num_frames)
    plan = searcher.plan(depth, "bottom_up")
    duration_s = float(windows.dense[-1, 1])
    found = searcher.search_windows(windows, features, duration_s, sentences, plan, query_tokens, vectors=vectors)
    asked = slice(len(sentences)), slice(len(clips))
    confidence = found.confidence[asked]
    upper = np.zeros_like(confidence) if found.levels is None else found.levels.scores[asked]
    return np.stack([_places(pairs) for pairs in np.stack([confidence, upper], axis=2)])


def _places(pairs: np.ndarray) -> np.ndarray:
    """The place of each of the pairs `[C, 2]` ordered by first, then second, ascending: `[C]`, equal for ties."""
    return np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)


def clip_windows(lengths: Sequence[int], window_s: float, num_frames: int) -> VideoWindows:
    """Windows of concatenated clips of so many frames each; the upper windows are the same."""
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    spread = np.linspace(0.0, 1.0, num_frames)
    frames = starts[:, None] + np.round(spread * (np.asarray(lengths)[:, None] - 1)).astype(np.int64)
    begin = window_s * np.arange(len(lengths))
    windows = np.stack([begin, begin + window_s], axis=1)
    parents = np.arange(len(lengths), dtype=np.int32)[:, None]
    return VideoWindows(windows, frames, len(lengths), windows, frames, parents)
