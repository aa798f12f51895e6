"""Pads windows, questions and features to few sizes, so that a search rarely compiles.

Letters: W windows in N blocks of B, F frames a window, Q queries, h tokens of a shared head, T of the rest.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from revision_jax.search.packing.inputs import Questions, WindowTable

QUERY_STEP = 64  # the least queries of a program; it costs memory only
QUERY_CHUNK = 256  # the most; more queries are asked in equal parts
WINDOW_STEP = 16  # windows of a block; padding in the last block costs time, further blocks memory only
TOKEN_STEP = 8


def query_chunks(count: int) -> list[slice]:
    """The queries that are asked together, in equal parts of at most `QUERY_CHUNK`: few shapes for any count."""
    parts = -(-count // QUERY_CHUNK)
    ends = [count * i // parts for i in range(parts + 1)]
    return [slice(first, last) for first, last in itertools.pairwise(ends)]


def asked_shape(window_block: int, query_batch: int, shards: int, count: int, *, all_asked: bool) -> tuple[int, int]:
    """Windows of a block and queries asked together of it, at most `window_block * query_batch` pairs.

    A block holds few windows and many queries. Its windows are sorted by how many queries ask them, so they are asked
    about equally often, and few pairs of a turn are idle; and less than `WINDOW_STEP` windows a device are padding.

    Args:
      count: queries, at most `QUERY_CHUNK`.
      all_asked: every query asks every window. Then few queries get blocks of more windows, `query_batch` at a time.
    """
    least = min(window_block, WINDOW_STEP * shards)
    pairs = window_block * query_batch
    batch = 1 << (min(count, QUERY_CHUNK // 2) - 1).bit_length()
    batch = min(pairs // least, max(batch, query_batch) if all_asked else batch)
    return min(window_block, pairs // batch // least * least) if all_asked else least, batch


def pack_windows(frames: np.ndarray, block: int, shards: int = 1, growth: int = 2) -> WindowTable:
    """Windows in blocks of few sizes: their number N is rounded up to a power of `growth`, a lone block to one of two.

    Args:
      frames: `[W, F]` rows of the video's features.
      block: the most windows in a block, a multiple of `shards`.
      shards: devices that share a block.
      growth: from one number of blocks to the next, a power of two; it costs memory only.
    """
    blocks, size = -(-len(frames) // block), block
    if blocks == 1:  # a single window (depth 0) stands alone
        size = shards if len(frames) == 1 else int(np.lcm(WINDOW_STEP, shards))
        size = min(size << max(-(-len(frames) // size) - 1, 0).bit_length(), block)
    shape = (rounded(blocks, 1, growth), size)
    padded = pack_rows(frames.astype(np.int32), shape[0] * shape[1])
    number = np.arange(len(padded), dtype=np.int32).reshape(shape)
    return WindowTable(padded.reshape(*shape, -1), number < len(frames), number)


def pack_questions(asked: Sequence[np.ndarray], head: np.ndarray, length: int, batch: int) -> Questions:
    """Questions with their common head apart, the rest right-padded.

    Args:
      asked: tokens of each question.
      head: tokens with which all of them should begin.
      length: T; 0 takes the longest, rounded up to `TOKEN_STEP`.
      batch: Q is a multiple of this, and of few sizes.

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
    rows = rounded(len(rests), QUERY_STEP, 4)
    tokens = np.zeros((round_up(rows, np.lcm(QUERY_STEP, batch)), length), np.int32)
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
    """`[N, D]`, rows rounded up to a power of two: few sizes, at most twice the memory."""
    return np.pad(features, ((0, rounded(len(features), 64, 2) - len(features)), (0, 0)))


def rounded(n: int, least: int, growth: int) -> int:
    """The first of `least`, `least * growth`, `least * growth ** 2`, ... that is at least `n`."""
    size = least
    while size < n:
        size *= growth
    return size


def round_up(n: int, step: int) -> int:
    """The least multiple of `step` that is at least `n`."""
    return int(-(-n // step) * step)
