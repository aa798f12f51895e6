"""Fixed shapes for the search: windows, questions and features padded to few sizes, so that it rarely compiles.

Letters: W windows in N blocks of B, U upper windows, P parents of a window, F frames a window, Q queries, h tokens
of a shared head, T of the rest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.dense_level import Questions, WindowTable
from revision_jax.search.released import dense_windows

QUERY_STEP = 64  # queries are padded to a multiple of this; it costs memory only
WINDOW_STEP = 16  # windows of a block, likewise; these cost time
TOKEN_STEP = 8


class VideoWindows(NamedTuple):
    """The windows of a video, in seconds and in rows of its features.

    Attributes:
      dense: `[W, 2]` float64 seconds; dense_frames: `[W, F]` int64.
      all_dense: windows that a search of depth 1 asks.
      upper, upper_frames: likewise; None where the search has no upper levels.
      parents: `[W, P]` int32, the upper windows that send a dense one down.
    """

    dense: np.ndarray
    dense_frames: np.ndarray
    all_dense: int
    upper: np.ndarray | None = None
    upper_frames: np.ndarray | None = None
    parents: np.ndarray | None = None

    @classmethod
    def of(
        cls, hierarchy: Hierarchy, duration_s: float, fps: float, num_frames: int, depth: int, rule: str = "whole"
    ) -> "VideoWindows":
        """Depth 0: the whole video as one window, however long it is. `rule`: see `settings.WINDOWS`."""
        frames = lambda windows: hierarchy.frame_indices(windows[:, 0], windows[:, 1], fps, num_frames)
        dense = dense_windows(hierarchy, rule, duration_s, fps, num_frames)
        if depth == 0:
            whole = np.array([[0.0, duration_s]])
            return cls(whole, frames(whole), len(dense))
        if depth == 1:
            return cls(dense, frames(dense), len(dense))
        if rule != "whole":
            raise ValueError(f"search.windows is {rule!r}; expected 'whole' at depth {depth}: windows have parents.")
        upper = hierarchy.upper_windows(duration_s)
        return cls(dense, frames(dense), len(dense), upper, frames(upper), hierarchy.parents(duration_s))


def chosen_shape(window_block: int, query_batch: int, shards: int, count: int) -> tuple[int, int]:
    """Windows of a block and queries asked together of it, where each query has windows of its own.

    Few windows and many queries: then the windows of a block, sorted by how many queries ask them, are asked about
    equally often, and few pairs of a turn are idle. As many pairs in all as `window_block * query_batch`.
    """
    block = min(window_block, WINDOW_STEP * shards)
    return block, min(query_batch * window_block // block, 1 << (count - 1).bit_length())


def pack_windows(frames: np.ndarray, block: int, shards: int = 1) -> WindowTable:
    """Windows in blocks of equal size; their number N is rounded up to a power of two.

    Args:
      frames: `[W, F]` rows of the video's features.
      block: the most windows in a block, a multiple of `shards`.
      shards: devices that share a block.
    """
    blocks = -(-len(frames) // block)
    each = -(-len(frames) // blocks)
    # A single window (depth 0) stands alone.
    size = min(round_up(each, shards if each == 1 else np.lcm(WINDOW_STEP, shards)), block)
    shape = (1 << (blocks - 1).bit_length(), size)
    padded = pack_rows(frames.astype(np.int32), shape[0] * shape[1])
    number = np.arange(len(padded), dtype=np.int32).reshape(shape)
    return WindowTable(padded.reshape(*shape, -1), number < len(frames), number)


def pack_questions(asked: Sequence[np.ndarray], head: np.ndarray, length: int, batch: int) -> Questions:
    """Questions with their common head apart, the rest right-padded.

    Args:
      asked: tokens of each question.
      head: tokens with which all of them should begin.
      length: T; 0 takes the longest, rounded up to `TOKEN_STEP`.
      batch: Q is a multiple of this.

    Raises:
      ValueError: a question is longer than `length`.
    """
    if any(len(ids) <= len(head) or (ids[: len(head)] != head).any() for ids in asked):
        head = head[:0]  # a tokenizer that merges into the event: exact all the same, only slower
    rests = [ids[len(head) :] for ids in asked]
    longest = max(map(len, rests))
    length = length or round_up(longest, TOKEN_STEP)
    if longest > length:
        raise ValueError(
            f"a question has {longest} tokens behind {len(head)} shared ones; search.question_tokens is {length}. "
            "Raise it, or set it to 0 to fit the questions."
        )
    tokens = np.zeros((round_up(len(rests), np.lcm(QUERY_STEP, batch)), length), np.int32)
    lengths = np.ones(len(tokens), np.int32)
    for i, ids in enumerate(rests):
        tokens[i, : len(ids)], lengths[i] = ids, len(ids)
    return Questions(head, tokens, lengths, np.int32(len(rests)))


def pack_rows(rows: np.ndarray, length: int) -> np.ndarray:
    """`[n, ...]` -> `[length, ...]`, filled up with zeros."""
    return np.pad(rows, ((0, length - len(rows)), *((0, 0),) * (rows.ndim - 1)))


def common_start(texts: Sequence[np.ndarray]) -> np.ndarray:
    """The tokens with which all texts begin, short of a whole text."""
    shortest = min(map(len, texts)) - 1
    same = np.all([text[:shortest] == texts[0][:shortest] for text in texts], axis=0)
    return texts[0][: int(np.argmin(np.append(same, False)))]


def pad_frames(features: np.ndarray) -> np.ndarray:
    """`[N, D]`, rows rounded up to a quarter of a power of two: few sizes, at most a quarter more memory."""
    step = max(64, 1 << max(len(features).bit_length() - 3, 0))
    return np.pad(features, ((0, round_up(len(features), step) - len(features)), (0, 0)))


def round_up(n: int, step: int) -> int:
    return int(-(-n // step) * step)


def check_features(features: np.ndarray) -> None:
    """Raises ValueError for a video's features `[N, D]` that cannot be searched."""
    if not len(features):
        raise ValueError("the video has no frames; expected features [N, D] of at least one.")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise ValueError(
            f"{int((~finite).sum())} of {len(finite)} frames have features that are not finite, the first is frame "
            f"{first}; expected numbers. Extract this video again."
        )


def required(value, message: str):
    """`value`; raises ValueError if there is none."""
    if value is None:
        raise ValueError(f"{message}; found none.")
    return value
