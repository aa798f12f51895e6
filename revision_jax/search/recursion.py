"""The search of a video's windows: a frozen `SearchState`, a pure step over one block of windows, one loop.

Letters: Q queries, q queries asked together, N blocks, B windows of a block, F frames, T question tokens, A answer
tokens, S slots of the suffix cache (T + A - 1), D feature width.

The prompt is (prefix, video, question, answer) and the video does not see the question: the key/value cache of
(prefix, video) is made once a window and is exact for every query; so is that of the words with which all
questions begin ("During which frames can we see"). A block of windows is encoded, then all queries are asked of
it, `query_batch` at a time, and read its cache in place. Only pairs (query, window) whose answer may still become
a span are decoded further (`Grammar.open`): most windows answer `Not Present`, which its first token settles.
Loops have dynamic bounds: padding of queries and of blocks costs memory, no time.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from revision_jax.search.confidence import inverse_mean_entropy
from revision_jax.search.decoding import NOT_PRESENT, DecodeState, Grammar, decode_step


class WindowTable(NamedTuple):
    """The windows of a video, in blocks.

    Attributes:
      frames: `[N, B, F]` int32, rows of the video's features.
      valid: `[N, B]` bool, False for padding.
    """

    frames: jax.Array
    valid: jax.Array


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchState:
    """What the search knows after some blocks.

    Attributes:
      block: `[]` int32, the next block.
      spans: `[Q, N, B, 2]` int32, frames (s, e) within the window; (-1, -1) where the event is not present.
      confidence: `[Q, N, B]` float32, 0 where there is no span.
      decoded: `[Q]` int32, answer tokens generated.
    """

    block: jax.Array
    spans: jax.Array
    confidence: jax.Array
    decoded: jax.Array

    @classmethod
    def start(cls, num_queries: int, num_blocks: int, block: int) -> "SearchState":
        shape = (num_queries, num_blocks, block)
        zero = jnp.zeros((), jnp.int32)
        spans = jnp.full((*shape, 2), NOT_PRESENT, jnp.int32)
        return cls(zero, spans, jnp.zeros(shape, jnp.float32), jnp.zeros(num_queries, jnp.int32))


def search_windows(
    grounder, grammar: Grammar, prefix, features, table: WindowTable, num_blocks, questions: Questions, *,
    answer_tokens: int, query_batch: int, decode_block: int,
) -> SearchState:  # fmt: skip
    """Asks every question of every window of a video.

    Args:
      grounder: `models.Grounder`.
      prefix: `[P]` int32, the tokens before the video.
      features: `[frames, D]`, the whole video.
      num_blocks: `[]` int32, how many of the table's N blocks hold windows.
      answer_tokens: `A`, the longest answer, `</s>` included.
      query_batch: queries asked together; Q is a multiple of it.
      decode_block: pairs decoded at a time after the first token.
    """

    def step(state: SearchState) -> SearchState:
        frames, valid = table.frames[state.block], table.valid[state.block]
        cache = _encode(grounder, prefix, features[frames], questions.head)

        def ask(i, state):
            queries = i * query_batch + jnp.arange(query_batch)
            asked = valid[:, None] & (queries < questions.count)  # [B, q]
            pairs = _answer(
                grounder.llm, grammar, cache, questions.tokens[queries], questions.lengths[queries], asked,
                answer_tokens, decode_block,
            )  # fmt: skip
            pairs = jax.tree.map(lambda x: x.reshape(asked.shape).T, pairs)  # [q, B]
            spans = grammar.answer[pairs.state]
            found = (spans[..., 0] >= 0) & asked.T
            confidence = inverse_mean_entropy(pairs.entropy_sum, pairs.length)
            return dataclasses.replace(
                state,
                spans=state.spans.at[queries, state.block].set(jnp.where(found[..., None], spans, NOT_PRESENT)),
                confidence=state.confidence.at[queries, state.block].set(jnp.where(found, confidence, 0.0)),
                decoded=state.decoded.at[queries].add(jnp.sum(pairs.length * asked.T, axis=1)),
            )

        state = jax.lax.fori_loop(0, -(-questions.count // query_batch), ask, state)
        return dataclasses.replace(state, block=state.block + 1)

    start = SearchState.start(questions.tokens.shape[0], *table.valid.shape)
    return jax.lax.while_loop(lambda state: state.block < num_blocks, step, start)


def _encode(grounder, prefix, video, head):
    """The key/value cache of (prefix, video `[B, F, D]`, head), P + F + h slots a window."""
    windows = grounder.embed_windows(prefix, video)
    said = grounder.llm.embed(head[None])
    said = jnp.broadcast_to(said, (windows.shape[0], *said.shape[1:]))
    return grounder.llm.prefill(jnp.concatenate([windows, said], axis=1))[1]


def _answer(llm, grammar, prefix, tokens, lengths, asked, answer_tokens, decode_block) -> DecodeState:
    """Asks q questions `[q, T]` of B cached windows: -> `B * q` pairs, the pairs of a window side by side."""
    (windows, batch), (_, num_tokens) = asked.shape, tokens.shape
    offset = prefix.k.shape[2]
    slots = num_tokens + answer_tokens - 1  # the closing `</s>` is never fed back
    empty = lambda x: jnp.zeros((x.shape[0], windows * batch, slots, *x.shape[3:]), x.dtype)
    positions = jnp.arange(num_tokens)
    causal = jnp.arange(slots)[None, :] <= positions[:, None]  # [T, S]
    each_window = lambda x: jnp.broadcast_to(x, (windows, *x.shape)).reshape(windows * batch, *x.shape[1:])
    each_pair = lambda x: jnp.broadcast_to(x, (windows * batch, *x.shape))
    hidden, suffix = llm.extend(
        each_window(llm.embed(tokens)), each_pair(offset + positions), prefix, jax.tree.map(empty, prefix), 0,
        each_pair(causal),
    )  # fmt: skip
    lengths = each_window(lengths)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    first = decode_step(grammar, DecodeState.start(windows * batch), llm.logits(last))
    return _finish(llm, grammar, prefix, suffix, first, lengths, num_tokens, asked.reshape(-1), decode_block)


def _finish(llm, grammar, prefix, suffix, answers, lengths, num_tokens, asked, decode_block) -> DecodeState:
    """Decodes to the end the answers that are still open, `decode_block` pairs at a time."""
    pairs = asked.shape[0]
    batch = pairs // prefix.k.shape[1]
    open_ = grammar.open[answers.state] & asked
    order = jnp.argsort(~open_, stable=True)  # open pairs first
    order = jnp.pad(order, (0, -pairs % decode_block))
    num_open = jnp.sum(open_)

    def finish_block(i, answers):
        first = i * decode_block
        rows = jax.lax.dynamic_slice_in_dim(order, first, decode_block)
        # The block's rows past the last open pair are copies of its first, so that they never prolong it; row
        # `pairs` does not exist, so that they are not written back either.
        is_open = first + jnp.arange(decode_block) < num_open
        rows = jnp.where(is_open, rows, rows[0])
        some = _decode(
            llm, grammar, jax.tree.map(lambda x: x[:, rows // batch], prefix),
            jax.tree.map(lambda x: x[:, rows], suffix), jax.tree.map(lambda x: x[rows], answers), lengths[rows],
            num_tokens,
        )  # fmt: skip
        back = jnp.where(is_open, rows, pairs)
        return jax.tree.map(lambda x, y: x.at[back].set(y, mode="drop"), answers, some)

    return jax.lax.fori_loop(0, -(-num_open // decode_block), finish_block, answers)


def _decode(llm, grammar, prefix, suffix, answers, lengths, num_tokens) -> DecodeState:
    """Lockstep greedy decoding from the first answer token on, until no answer is open."""
    offset, slots = prefix.k.shape[2], suffix.k.shape[2]
    slot = jnp.arange(slots)

    def step(carry):
        k, suffix, answers = carry
        write_at = num_tokens + k
        # The question's own slots, then the answer's up to this one; padding between them is never seen.
        mask = (slot < lengths[:, None]) | ((slot >= num_tokens) & (slot <= write_at))
        hidden, suffix = llm.extend(
            llm.embed(answers.token[:, None]), (offset + lengths + k)[:, None], prefix, suffix, write_at,
            mask[:, None],
        )  # fmt: skip
        return k + 1, suffix, decode_step(grammar, answers, llm.logits(hidden[:, 0]))

    def unfinished(carry: tuple[Any, Any, DecodeState]):
        k, _, answers = carry
        return (k < slots - num_tokens) & jnp.any(grammar.open[answers.state])

    return jax.lax.while_loop(unfinished, step, (jnp.zeros((), jnp.int32), suffix, answers))[2]
