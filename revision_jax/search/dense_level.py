"""The dense level of a search: a frozen `SearchState`, a pure step over one block of windows, one loop.

Letters: Q queries, q queries asked together, W windows in N blocks of B, F frames, T question tokens, A answer
tokens, S slots of the suffix cache (T + answer slots), D feature width, V vocabulary.

The prompt is (prefix, video, question, answer) and the video does not see the question: the key/value cache of
(prefix, video) is made once a window and is exact for every query; so is that of the words with which all
questions begin ("During which frames can we see"). A block of windows is encoded, then the queries chosen for each
are asked, `query_batch` at a time, and read its cache in place. Pairs (query, window) that were not chosen cost
nothing: windows are taken in the order of how many queries ask them, so that those of a block are busy equally
long. Only pairs whose answer may still become a span are decoded further (`Grammar.open`): most windows answer
`Not Present`, which its first token settles. Loops have dynamic bounds: padding costs memory, no time.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from revision_jax.search.answering import Asking, answer, encode_behind
from revision_jax.search.decoding import Grammar


class WindowTable(NamedTuple):
    """The windows of a video, in blocks.

    Attributes:
      frames: `[N, B, F]` int32, rows of the video's features.
      valid: `[N, B]` bool, False for padding.
      number: `[N, B]` int32, of the window in the whole table, wherever it is asked.
    """

    frames: jax.Array
    valid: jax.Array
    number: jax.Array


class Questions(NamedTuple):
    """Tokenised questions.

    Attributes:
      head: `[h]` int32, what all of them begin with; it is cached with the window.
      tokens: `[Q, T]` int32, the rest of each, right-padded; at least one token.
      lengths: `[Q]` int32.
      count: `[]` int32, how many of the Q are not padding.
    """

    head: jax.Array
    tokens: jax.Array
    lengths: jax.Array
    count: jax.Array


class Answers(NamedTuple):
    """What was answered about each pair, K answers each (1, or the beams); 0 for pairs not asked and dead beams.

    Attributes:
      state: `[Q, W, K]` int32, final states of the grammar, or such that nothing but `Not Present` can follow. A state
        names the tokens that lead to it.
      entropies: `[Q, W, K, A]` float32, nats, of each token.
      log_likelihood: `[Q, W, K]` float32.
      length: `[Q, W, K]` int32, tokens.
    """

    state: jax.Array
    entropies: jax.Array
    log_likelihood: jax.Array
    length: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchState:
    """What the search knows after some blocks.

    Attributes:
      block: `[]` int32, the next block.
      answers: so far.
      decoded: `[Q]` int32, answer tokens generated.
    """

    block: jax.Array
    answers: Answers
    decoded: jax.Array

    @classmethod
    def start(cls, num_queries: int, num_windows: int, beams: int, answer_tokens: int) -> "SearchState":
        shape, zero = (num_queries, num_windows, beams), jnp.zeros((), jnp.int32)
        whole, real = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
        answers = Answers(whole, jnp.zeros((*shape, answer_tokens), jnp.float32), real, whole)
        return cls(zero, answers, jnp.zeros(num_queries, jnp.int32))


def search_windows(
    grounder, grammar: Grammar, prefix, features, table: WindowTable, chosen, questions: Questions, asking: Asking
) -> SearchState:
    """Asks every question of the windows chosen for it.

    Args:
      grounder: `models.Grounder`.
      prefix: `[P]` int32, the tokens before the video.
      features: `[frames, D]`, the whole video.
      chosen: `[Q, N, B]` bool, the pairs to ask; False for padding.
    """
    num_queries, _, block = chosen.shape
    chosen = chosen.reshape(num_queries, -1).T  # [W, Q]
    frames, number = table.frames.reshape(len(chosen), -1), table.number.reshape(-1)
    counts = jnp.sum(chosen, axis=1)
    order = jnp.argsort(-counts, stable=True)
    num_blocks = -(-jnp.sum(counts > 0) // block)

    def step(state: SearchState) -> SearchState:
        windows = order[state.block * block + jnp.arange(block)]
        cache = encode_behind(grounder.llm, grounder.embed_windows(prefix, features[frames[windows]]), questions.head)
        own_first = jnp.argsort(~chosen[windows], axis=1, stable=True)  # [B, Q]

        def ask(i, state):
            turn = i * asking.query_batch + jnp.arange(asking.query_batch)
            queries, asked = own_first[:, turn], turn < counts[windows][:, None]  # [B, q]
            pair = number[windows][:, None] * num_queries + queries
            pairs = answer(
                grounder.llm, grammar, cache, questions.tokens[queries], questions.lengths[queries], asked, pair, asking
            )
            pairs = jax.tree.map(lambda x: x.reshape(*asked.shape, asking.beams, *x.shape[1:]), pairs)
            known = asked[..., None] & jnp.isfinite(pairs.log_likelihood)
            answers = Answers(pairs.state, pairs.entropies, pairs.log_likelihood, pairs.length)
            answers = jax.tree.map(
                lambda x: jnp.where(known.reshape(*known.shape, *(1,) * (x.ndim - 3)), x, 0), answers
            )
            where = queries, windows[:, None]
            return dataclasses.replace(
                state,
                answers=jax.tree.map(lambda old, new: old.at[where].set(new), state.answers, answers),
                decoded=state.decoded.at[queries].add(jnp.sum(answers.length, axis=-1)),
            )

        state = jax.lax.fori_loop(0, -(-counts[windows[0]] // asking.query_batch), ask, state)
        return dataclasses.replace(state, block=state.block + 1)

    start = SearchState.start(num_queries, len(chosen), asking.beams, asking.answer_tokens)
    return jax.lax.while_loop(lambda state: state.block < num_blocks, step, start)
