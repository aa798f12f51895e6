"""The dense level of a search: a frozen `SearchState`, a pure step over one block of windows, one loop.

Letters: Q queries, q queries asked together, W windows in N blocks of B, F frames, T question tokens, A answer
tokens, S slots of the suffix cache (T + answer slots), D feature width, V vocabulary.

The prompt is (prefix, video, question, answer), and the video does not see the question. So the key/value cache of
(prefix, video) is computed once a window and serves every query; the same holds for the words with which all
questions begin ("During which frames can we see"). A block of windows is encoded, then the queries chosen for each
window are asked, `query_batch` at a time, and read its cache in place. Pairs (query, window) that were not chosen
cost nothing: windows are sorted by the number of queries that ask them, so that the windows of a block need equally
many turns. Only pairs whose answer may still become a span are decoded further (`Grammar.open`): most windows answer
`Not Present`, which the first token settles. Loops have dynamic bounds: padding costs memory, but no time.

Where frames see the query (`search_pairs`) nothing is shared: each pair is encoded by itself, B at a time.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from revision_jax.models.grounder import Grounder
from revision_jax.parallel.rules import agreed
from revision_jax.search.answers.asking import Answerer, Asking, Pairs, answer_pairs, encode_context
from revision_jax.search.answers.decoding import DecodeState, Grammar
from revision_jax.search.packing.inputs import Questions, Seen, WindowTable

MOST_QUERIES = 1 << 16  # of a video, so that every (query, window) has a number of its own (which may wrap)


class DenseInputs(NamedTuple):
    """What the dense level asks about.

    Attributes:
      prefix: `[P]` int32, the tokens before the video.
      grammar: of the answers.
      features: `[frames, D]`, the whole video.
      table: its windows; on a mesh, this device's share of every block.
      questions: as the dense level asks them.
      seen: what the frames see of the sentences; None where they see nothing.
    """

    prefix: jax.Array
    grammar: Grammar
    features: jax.Array
    table: WindowTable
    questions: Questions
    seen: Seen | None = None


class Answers(NamedTuple):
    """The answers about each pair, K of them (1, or the beams); 0 for pairs not asked and for dead beams.

    Attributes:
      state: `[Q, W, K]` int32, states of the grammar: final ones, or those after which only `Not Present` can follow.
        A state names the tokens that lead to it.
      entropies: `[Q, W, K, A]` float32, nats, of each token.
      log_likelihood: `[Q, W, K]` float32.
      length: `[Q, W, K]` int32, tokens.
    """

    state: jax.Array
    entropies: jax.Array
    log_likelihood: jax.Array
    length: jax.Array


def no_answers(num_queries: int, num_windows: int, beams: int, answer_tokens: int) -> Answers:
    """Before any pair is asked."""
    shape = num_queries, num_windows, beams
    whole, real = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
    return Answers(whole, jnp.zeros((*shape, answer_tokens), jnp.float32), real, whole)


def taken(answers: Answers, chosen: jax.Array) -> tuple[Answers, jax.Array]:
    """Of answers about all pairs those about the chosen ones `[Q, W]`, as if these alone had been asked.

    Returns:
      the answers, 0 for other pairs; and answer tokens generated, `[Q]` int32.
    """
    of = lambda x: jnp.where(chosen.reshape(*chosen.shape, *(1,) * (x.ndim - 2)), x, 0)
    answers = jax.tree.map(of, answers)
    return answers, jnp.sum(answers.length, axis=(1, 2))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchState:
    """What the search has found after some blocks.

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
        answers = no_answers(num_queries, num_windows, beams, answer_tokens)
        return cls(jnp.zeros((), jnp.int32), answers, jnp.zeros(num_queries, jnp.int32))

    def with_answers(
        self, queries: jax.Array, windows: jax.Array, asked: jax.Array, found: DecodeState
    ) -> "SearchState":
        """The state with answers about pairs `[B, q]` added, `B * q * K` of them; windows `[B, 1]`."""
        beams = self.answers.state.shape[2]
        found = jax.tree.map(lambda x: x.reshape(*asked.shape, beams, *x.shape[1:]), found)
        known = asked[..., None] & jnp.isfinite(found.log_likelihood)
        answers = Answers(found.state, found.entropies, found.log_likelihood, found.length)
        answers = jax.tree.map(lambda x: jnp.where(known.reshape(*known.shape, *(1,) * (x.ndim - 3)), x, 0), answers)
        where = queries, windows
        return dataclasses.replace(
            self,
            answers=jax.tree.map(lambda old, new: old.at[where].set(new), self.answers, answers),
            decoded=self.decoded.at[queries].add(jnp.sum(answers.length, axis=-1)),
        )


def search_windows(grounder: Grounder, inputs: DenseInputs, chosen: jax.Array, asking: Asking) -> SearchState:
    """Asks every question of the windows chosen for it; `chosen [Q, N, B]` bool, False for padding."""
    num_queries, _, block = chosen.shape
    answerer, questions = Answerer(grounder.llm, inputs.grammar, asking), inputs.questions
    chosen = chosen.reshape(num_queries, -1).T  # [W, Q]
    frames, number = inputs.table.frames.reshape(len(chosen), -1), inputs.table.number.reshape(-1)
    counts = jnp.sum(chosen, axis=1)
    order = jnp.argsort(-counts, stable=True)
    num_blocks = agreed(-(-jnp.sum(counts > 0) // block))

    def step(state: SearchState) -> SearchState:
        windows = order[state.block * block + jnp.arange(block)]
        embeddings = grounder.embed_windows(inputs.prefix, inputs.features[frames[windows]])
        cache = encode_context(grounder.llm, embeddings, questions.head)
        own_first = jnp.argsort(~chosen[windows], axis=1, stable=True)  # [B, Q]

        def ask(i: jax.Array, state: SearchState) -> SearchState:
            turn = i * asking.query_batch + jnp.arange(asking.query_batch)
            queries, asked = own_first[:, turn], turn < counts[windows][:, None]  # [B, q]
            pair = number[windows][:, None] * MOST_QUERIES + questions.first + queries
            found = answer_pairs(
                answerer, cache, Pairs(questions.tokens[queries], questions.lengths[queries], asked, pair)
            )
            return state.with_answers(queries, windows[:, None], asked, found)

        turns = agreed(-(-counts[windows[0]] // asking.query_batch))
        state = jax.lax.fori_loop(0, turns, ask, state)
        return dataclasses.replace(state, block=state.block + 1)

    start = SearchState.start(num_queries, len(chosen), asking.beams, asking.answer_tokens)
    return jax.lax.while_loop(lambda state: state.block < num_blocks, step, start)


def search_pairs(grounder: Grounder, inputs: DenseInputs, chosen: jax.Array, asking: Asking) -> SearchState:
    """`search_windows` where the frames of a window see the query: a cache for each chosen pair, B at a time."""
    num_queries, _, block = chosen.shape
    answerer, questions, seen = Answerer(grounder.llm, inputs.grammar, asking), inputs.questions, inputs.seen
    chosen = chosen.reshape(num_queries, -1).T  # [W, Q]
    frames, number = inputs.table.frames.reshape(len(chosen), -1), inputs.table.number.reshape(-1)
    order = jnp.argsort(~chosen.reshape(-1), stable=True)  # chosen pairs first
    count = jnp.sum(chosen)
    num_blocks = agreed(-(-count // block))

    def step(state: SearchState) -> SearchState:
        place = state.block * block + jnp.arange(block)
        windows, queries = jnp.divmod(order[place], num_queries)
        embeddings = grounder.embed_windows(
            inputs.prefix, inputs.features[frames[windows]], seen.query[queries], seen.mask[queries]
        )
        cache = encode_context(grounder.llm, embeddings, questions.head)
        windows, queries, asked = windows[:, None], queries[:, None], (place < count)[:, None]  # [B, 1]
        pair = number[windows] * MOST_QUERIES + questions.first + queries
        found = answer_pairs(answerer, cache, Pairs(questions.tokens[queries], questions.lengths[queries], asked, pair))
        state = state.with_answers(queries, windows, asked, found)
        return dataclasses.replace(state, block=state.block + 1)

    start = SearchState.start(num_queries, len(chosen), asking.beams, asking.answer_tokens)
    return jax.lax.while_loop(lambda state: state.block < num_blocks, step, start)
