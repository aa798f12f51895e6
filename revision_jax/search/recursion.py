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
      spans: `[Q, W, 2]` int32, frames (s, e) within the window; (-1, -1) where the event is not present.
      confidence: `[Q, W]` float32, 0 where there is no span.
      decoded: `[Q]` int32, answer tokens generated.
    """

    block: jax.Array
    spans: jax.Array
    confidence: jax.Array
    decoded: jax.Array

    @classmethod
    def start(cls, num_queries: int, num_windows: int) -> "SearchState":
        shape = (num_queries, num_windows)
        zero = jnp.zeros((), jnp.int32)
        spans = jnp.full((*shape, 2), NOT_PRESENT, jnp.int32)
        return cls(zero, spans, jnp.zeros(shape, jnp.float32), jnp.zeros(num_queries, jnp.int32))


def search_windows(
    grounder, grammar: Grammar, prefix, features, table: WindowTable, chosen, questions: Questions, *,
    answer_tokens: int, query_batch: int, decode_block: int,
) -> SearchState:  # fmt: skip
    """Asks every question of the windows chosen for it.

    Args:
      grounder: `models.Grounder`.
      prefix: `[P]` int32, the tokens before the video.
      features: `[frames, D]`, the whole video.
      chosen: `[Q, N, B]` bool, the pairs to ask; False for padding.
      answer_tokens: `A`, the longest answer, `</s>` included.
      query_batch: queries asked together; Q is a multiple of it.
      decode_block: pairs decoded at a time after the first token.
    """
    num_queries, _, block = chosen.shape
    chosen = chosen.reshape(num_queries, -1).T  # [W, Q]
    frames = table.frames.reshape(len(chosen), -1)
    counts = jnp.sum(chosen, axis=1)
    order = jnp.argsort(-counts, stable=True)
    num_blocks = -(-jnp.sum(counts > 0) // block)

    def step(state: SearchState) -> SearchState:
        windows = order[state.block * block + jnp.arange(block)]
        cache = encode_behind(grounder.llm, grounder.embed_windows(prefix, features[frames[windows]]), questions.head)
        own_first = jnp.argsort(~chosen[windows], axis=1, stable=True)  # [B, Q]

        def ask(i, state):
            turn = i * query_batch + jnp.arange(query_batch)
            queries, asked = own_first[:, turn], turn < counts[windows][:, None]  # [B, q]
            pairs = answer(
                grounder.llm, grammar, cache, questions.tokens[queries], questions.lengths[queries], asked,
                answer_tokens, decode_block,
            )  # fmt: skip
            pairs = jax.tree.map(lambda x: x.reshape(asked.shape), pairs)
            spans = grammar.answer[pairs.state]
            found = (spans[..., 0] >= 0) & asked
            confidence = inverse_mean_entropy(pairs.entropy_sum, pairs.length)
            where = queries, windows[:, None]
            return dataclasses.replace(
                state,
                spans=state.spans.at[where].set(jnp.where(found[..., None], spans, NOT_PRESENT)),
                confidence=state.confidence.at[where].set(jnp.where(found, confidence, 0.0)),
                decoded=state.decoded.at[queries].add(pairs.length * asked),
            )

        state = jax.lax.fori_loop(0, -(-counts[windows[0]] // query_batch), ask, state)
        return dataclasses.replace(state, block=state.block + 1)

    start = SearchState.start(num_queries, len(chosen))
    return jax.lax.while_loop(lambda state: state.block < num_blocks, step, start)


def encode_behind(llm, context, head):
    """The key/value cache of (context `[B, C, H]`, head `[h]`), C + h slots a row."""
    said = llm.embed(head[None])
    said = jnp.broadcast_to(said, (context.shape[0], *said.shape[1:]))
    return llm.prefill(jnp.concatenate([context, said], axis=1))[1]


def answer(llm, grammar, prefix, tokens, lengths, asked, answer_tokens, decode_block) -> DecodeState:
    """Asks q questions `[B, q, T]` of each of B cached rows: -> `B * q` pairs, the pairs of a row side by side."""
    # The closing `</s>` is never fed back.
    logits, suffix = read_questions(llm, prefix, tokens, lengths, answer_tokens - 1)
    first = decode_step(grammar, DecodeState.start(len(logits)), logits)
    return finish_answers(llm, grammar, prefix, suffix, first, lengths, tokens.shape[-1], asked, decode_block)


def read_questions(llm, prefix, tokens, lengths, answer_slots: int):
    """Reads q questions `[B, q, T]` behind each of B cached rows.

    Returns:
      raw logits of the first answer token `[B * q, V]`, and the suffix cache, T + answer_slots slots a pair.
    """
    pairs, num_tokens = tokens.shape[0] * tokens.shape[1], tokens.shape[2]
    slots = num_tokens + answer_slots
    empty = lambda x: jnp.zeros((x.shape[0], pairs, slots, *x.shape[3:]), x.dtype)
    positions = jnp.arange(num_tokens)
    causal = jnp.arange(slots)[None, :] <= positions[:, None]  # [T, S]
    each_pair = lambda x: jnp.broadcast_to(x, (pairs, *x.shape))
    hidden, suffix = llm.extend(
        llm.embed(tokens.reshape(pairs, num_tokens)), each_pair(prefix.length + positions), prefix,
        jax.tree.map(empty, prefix), 0, each_pair(causal),
    )  # fmt: skip
    last = jnp.take_along_axis(hidden, (lengths.reshape(-1) - 1)[:, None, None], axis=1)[:, 0]
    return llm.logits(last), suffix


def finish_answers(
    llm, grammar, prefix, suffix, answers: DecodeState, lengths, num_tokens: int, asked, decode_block: int
) -> DecodeState:
    """Decodes to the end the answers that are still open, `decode_block` pairs at a time; lengths, asked `[B, q]`."""
    batch = asked.shape[1]
    lengths, asked = lengths.reshape(-1), asked.reshape(-1)
    pairs = asked.shape[0]
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
