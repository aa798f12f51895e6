"""Text-to-video retrieval: which of many short clips shows the event? MSRVTT's protocol.

Letters: C clips, Q queries, D feature width, F frames a window.

All clips are joined to a single long video, each of them a window; that video is searched bottom-up, and clips are
ranked by the confidence of their answers. Clips that answered `Not Present` come after all others, in the order of the
upper levels' scores.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.search.packing.packer import Request
from revision_jax.search.packing.shared import NOTHING, SHARED_BYTES, Shared
from revision_jax.search.packing.windows import VideoWindows
from revision_jax.search.searcher import Searcher
from revision_jax.search.sentences import Sentences


def score_clips(
    searcher: Searcher, clips: Sequence[np.ndarray], sentences: Sentences, *, depth: int, shared: Shared = NOTHING
) -> tuple[np.ndarray, Shared]:
    """How well each clip answers each sentence: `[Q, C]` int64, the better the higher; equal where nothing differs.

    Args:
      clips: features `[n, D]` of each, any n of at least 1; F of its frames are taken evenly.
      depth: of the search; 1 has no upper levels.
      shared: what searches of the same clips and sentences returned, see below.

    Returns:
      the places, and what a search at another depth can use.
    """
    video, windows = join_clips(searcher, clips)
    plan = searcher.plan(depth, "bottom_up" if depth > 1 else "top_down")  # both ask every window
    request = Request(video, windows, sentences, shared)
    request = dataclasses.replace(request, shared=searcher.share(request, plan, SHARED_BYTES))
    found, _ = searcher.search_windows(request, plan)
    asked = slice(len(sentences)), slice(len(clips))
    confidence = found.confidence[asked]
    upper = np.zeros_like(confidence) if found.levels is None else found.levels.scores[asked]
    places = np.stack([_places(pairs) for pairs in np.stack([confidence, upper], axis=2)])
    return places, request.shared


def join_clips(searcher: Searcher, clips: Sequence[np.ndarray]) -> tuple[VideoFeatures, VideoWindows]:
    """Clips one after another as a single video, each clip a window of it."""
    hierarchy, features = searcher.hierarchy, np.concatenate(clips)
    windows = clip_windows([len(clip) for clip in clips], hierarchy.window_s, hierarchy.num_frames)
    duration_s = float(windows.dense[-1, 1])
    return VideoFeatures(features, duration_s, len(features) / duration_s), windows


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
