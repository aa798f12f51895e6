"""Pads windows, questions and features to few sizes, so that a search rarely compiles.

Letters: W windows in N blocks of B, F frames a window, Q queries, h tokens of a shared head, T of the rest.
"""

from collections.abc import Sequence

import numpy as np

from revision_jax.search.packing.inputs import Questions, WindowTable

QUERY_STEP = 64  # queries are padded to a multiple of this; it costs memory only
WINDOW_STEP = 16  # windows of a block, likewise; these cost time
TOKEN_STEP = 8


def chosen_shape(window_block: int, query_batch: int, shards: int, count: int) -> tuple[int, int]:
    """Windows of a block and queries asked together of it, where each of `count` queries has windows of its own.

    A block holds few windows and many queries: the windows of a block are sorted by how many queries ask them, so they
    are asked about equally often, and few pairs of a turn are idle. There are at most `window_block * query_batch`
    pairs.
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
        head = head[:0]  # the tokenizer merges the head into an event: exact as well, only slower
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
    """The least multiple of `step` that is at least `n`."""
    return int(-(-n // step) * step)
