"""What the search program gets: the arrays of one video and its sentences, in fixed shapes.

Letters: N blocks of B windows, F frames a window, D feature width, Q queries, h tokens of the shared head, T question
tokens, Tq query tokens of CLIP, W dense windows, P parents of a dense window, U upper windows, H LLM width, L upper
levels.
"""

from typing import NamedTuple

import jax
import numpy as np


class WindowTable(NamedTuple):
    """The windows of a video, in blocks.

    Attributes:
      frames: `[N, B, F]` int32, rows of the video's features.
      valid: `[N, B]` bool, False for padding.
      number: `[N, B]` int32, of the window in the whole table, whichever device searches it.
    """

    frames: jax.Array
    valid: jax.Array
    number: jax.Array


class Questions(NamedTuple):
    """Tokenised questions.

    Attributes:
      head: `[h]` int32, tokens with which all questions begin; they are cached with the window.
      tokens: `[Q, T]` int32, the rest of each question, right-padded; at least one token.
      lengths: `[Q]` int32.
      count: `[]` int32, how many of the Q are not padding.
      first: `[]` int32, the number of the first one where a search asks its queries in several parts.
    """

    head: jax.Array
    tokens: jax.Array
    lengths: jax.Array
    count: jax.Array
    first: jax.Array | np.int32 = np.int32(0)


class Seen(NamedTuple):
    """CLIP's token features of the sentences: query `[Q, Tq, D]`, mask `[Q, Tq]` bool."""

    query: jax.Array
    mask: jax.Array


class Reading(NamedTuple):
    """What an upper level that is shown every window says of them.

    Attributes:
      scores: `[Q, U]` float32 of `ask_level`.
      decoded: `[Q]` int32, answer tokens generated.
    """

    scores: jax.Array
    decoded: jax.Array


class UpperInputs(NamedTuple):
    """What the upper levels get beside the features.

    Attributes:
      table: upper windows.
      questions: as the upper levels ask them.
      query: `[Q, Tq, D]`, CLIP's token features of the sentences.
      query_mask: `[Q, Tq]` bool.
      similar: `[Q, D]`, holistic features of the sentences; None where no shortlist is made.
      parents: `[W, P]` int32, for every dense window the numbers of the upper windows that send it down.
      vectors: `[Q, U, H]`, sparse vectors that an earlier search of the same video made; None makes them.
      readings: of the first levels, made earlier, too; the levels after them are asked.
    """

    table: WindowTable
    questions: Questions
    query: jax.Array
    query_mask: jax.Array
    similar: jax.Array | None = None
    parents: jax.Array | None = None
    vectors: jax.Array | None = None
    readings: tuple[Reading, ...] = ()


class VideoInputs(NamedTuple):
    """A video and what is asked about it.

    Attributes:
      features: `[frames, D]`.
      table: dense windows.
      starts, lengths: `[N, B]` float32, their starts and lengths in seconds.
      duration_s: seconds of the video.
      questions: as the dense level asks them.
      counts: `[L + 1]` int32, windows that each upper level is shown, and dense windows that are asked; None asks
        every window.
      similar: `[Q, D]`, holistic features of the sentences; None where nothing compares them.
      upper: what the upper levels get; None without upper levels.
      seen: what the frames of dense windows see of the sentences; None where they see nothing.
      asked: `levels.dense.Answers` about every dense window, made earlier; None asks those that are chosen.
    """

    features: jax.Array
    table: WindowTable
    starts: jax.Array
    lengths: jax.Array
    duration_s: jax.Array
    questions: Questions
    counts: jax.Array | None
    similar: jax.Array | None
    upper: UpperInputs | None
    seen: Seen | None = None
    asked: tuple | None = None


class LevelInputs(NamedTuple):
    """What one upper level reads that is shown every window; the fields are those of `VideoInputs`."""

    features: jax.Array
    counts: jax.Array
    upper: UpperInputs
