"""Asking cached rows: questions are read behind a shared key/value cache, answers decoded to their end.

A row is a window, or a group of windows; its cache is read in place by all its questions. After the first answer
token only pairs that are still open go on, a block at a time, so that memory does not grow with their number.

Letters: B rows, q questions of a row, K answers (beams) of a pair, R pairs decoded at a time, C context tokens, h
tokens of the shared head, T question tokens, A answer tokens, V vocabulary.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from revision_jax.search.beam import Beam, beam_step, start_beams, unfinished
from revision_jax.search.decoding import GREEDY, DecodeState, decode_step


@dataclasses.dataclass(frozen=True)
class Asking:
    """How pairs are asked; static.

    Attributes:
      answer_tokens: `A`, of the longest answer, `</s>` included.
      query_batch: queries asked together of a block of windows; Q is a multiple of it.
      decode_block: pairs decoded at a time after the first token.
      strategy: `decoding.Greedy`, `decoding.Sampling` or `beam.Beam`.
    """

    answer_tokens: int
    query_batch: int
    decode_block: int
    strategy: Any = GREEDY

    @property
    def beams(self) -> int:
        return self.strategy.width if isinstance(self.strategy, Beam) else 1


def encode_behind(llm, context, head):
    """The key/value cache of (context `[B, C, H]`, head `[h]`), C + h slots a row."""
    said = llm.embed(head[None])
    said = jnp.broadcast_to(said, (context.shape[0], *said.shape[1:]))
    return llm.prefill(jnp.concatenate([context, said], axis=1))[1]


def answer(llm, grammar, prefix, tokens, lengths, asked, pair, asking: Asking) -> DecodeState:
    """Asks q questions `[B, q, T]` of each of B cached rows: -> `B * q * K` answers, those of a row side by side.

    `pair [B, q]` int32 numbers the pairs.
    """
    # The closing `</s>` is never fed back.
    logits, suffix = read_questions(llm, prefix, tokens, lengths, asking.answer_tokens - 1)
    length = tokens.shape[-1]
    if asking.beams > 1:
        return finish_beams(llm, grammar, prefix, suffix, logits, lengths, length, asked, asking)
    first = DecodeState.start(len(logits), asking.answer_tokens, pair.reshape(-1))
    first = decode_step(grammar, first, logits, asking.strategy)
    return finish_answers(llm, grammar, prefix, suffix, first, lengths, length, asked, asking)


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
    llm, grammar, prefix, suffix, answers: DecodeState, lengths, num_tokens: int, asked, asking: Asking
) -> DecodeState:
    """Decodes to the end the answers that are still open, a block of pairs at a time; lengths, asked `[B, q]`."""
    batch = asked.shape[1]
    lengths, asked = lengths.reshape(-1), asked.reshape(-1)

    def finish(rows, some):
        return _decode(
            llm, grammar, _rows(prefix, rows // batch), _rows(suffix, rows), some, lengths[rows], num_tokens,
            asking.strategy,
        )  # fmt: skip

    return _in_blocks(grammar.open[answers.state] & asked, asking.decode_block, finish, answers)


def finish_beams(
    llm, grammar, prefix, suffix, logits, lengths, num_tokens: int, asked, asking: Asking
) -> DecodeState:  # fmt: skip
    """From the logits of the first answer token `[B * q, V]` to K answers a pair; see `finish_answers`."""
    batch, width = asked.shape[1], asking.beams
    lengths, asked = lengths.reshape(-1), asked.reshape(-1)
    pairs = len(asked)
    nothing = dataclasses.replace(
        start_beams(pairs, width, asking.answer_tokens), log_likelihood=jnp.full(pairs * width, -jnp.inf)
    )

    def finish(rows, _):
        each = jnp.repeat(rows, width)
        some = _decode_beams(
            llm, grammar, _rows(prefix, rows // batch), _rows(suffix, each), logits[each], lengths[each], num_tokens,
            asking,
        )  # fmt: skip
        return jax.tree.map(lambda x: x.reshape(len(rows), width, *x.shape[1:]), some)

    beams = jax.tree.map(lambda x: x.reshape(pairs, width, *x.shape[1:]), nothing)
    beams = _in_blocks(asked, max(asking.decode_block // width, 1), finish, beams)
    return jax.tree.map(lambda x: x.reshape(pairs * width, *x.shape[2:]), beams)


def _rows(cache, rows):
    """Some rows of a key/value cache."""
    return jax.tree.map(lambda x: x[:, rows], cache)


def _in_blocks(todo, block: int, finish, answers: DecodeState) -> DecodeState:
    """Applies `finish(rows, their answers)` to the pairs `todo [pairs]` bool, a block at a time."""
    pairs = len(todo)
    order = jnp.argsort(~todo, stable=True)  # these pairs first
    order = jnp.pad(order, (0, -pairs % block))
    count = jnp.sum(todo)

    def finish_block(i, answers):
        rows = jax.lax.dynamic_slice_in_dim(order, i * block, block)
        # The block's rows past the last such pair are copies of its first, so that they never prolong it; row
        # `pairs` does not exist, so that they are not written back either.
        real = i * block + jnp.arange(block) < count
        rows = jnp.where(real, rows, rows[0])
        some = finish(rows, jax.tree.map(lambda x: x[rows], answers))
        back = jnp.where(real, rows, pairs)
        return jax.tree.map(lambda x, y: x.at[back].set(y, mode="drop"), answers, some)

    return jax.lax.fori_loop(0, -(-count // block), finish_block, answers)


def _extend(llm, prefix, suffix, tokens, lengths, num_tokens: int, k):
    """Feeds the k-th answer token of each row `[R]`: -> raw logits `[R, V]` of the next one, and the suffix cache."""
    slot, write_at = jnp.arange(suffix.k.shape[2]), num_tokens + k
    # The question's own slots, then the answer's up to this one; padding between them is never seen.
    mask = (slot < lengths[:, None]) | ((slot >= num_tokens) & (slot <= write_at))
    position = (prefix.k.shape[2] + lengths + k)[:, None]
    hidden, suffix = llm.extend(llm.embed(tokens[:, None]), position, prefix, suffix, write_at, mask[:, None])
    return llm.logits(hidden[:, 0]), suffix


def _decode(llm, grammar, prefix, suffix, answers, lengths, num_tokens, strategy) -> DecodeState:
    """Lockstep decoding from the first answer token on, until no answer is open."""

    def step(carry):
        k, suffix, answers = carry
        logits, suffix = _extend(llm, prefix, suffix, answers.token, lengths, num_tokens, k)
        return k + 1, suffix, decode_step(grammar, answers, logits, strategy)

    def going(carry: tuple[Any, Any, DecodeState]):
        k, suffix, answers = carry
        return (k < suffix.k.shape[2] - num_tokens) & jnp.any(grammar.open[answers.state])

    return jax.lax.while_loop(going, step, (jnp.zeros((), jnp.int32), suffix, answers))[2]


def _decode_beams(llm, grammar, prefix, suffix, logits, lengths, num_tokens, asking: Asking) -> DecodeState:
    """Lockstep beams from the first answer token on, `logits [R * K, V]` of it, until no beam is open."""
    width = asking.beams
    start = start_beams(len(logits) // width, width, asking.answer_tokens)
    first, parent = beam_step(grammar, start, logits, width)

    def step(carry):
        k, suffix, beams = carry
        logits, suffix = _extend(llm, prefix, suffix, beams.token, lengths, num_tokens, k)
        beams, parent = beam_step(grammar, beams, logits, width)
        return k + 1, _rows(suffix, parent), beams

    def going(carry: tuple[Any, Any, DecodeState]):
        k, suffix, beams = carry
        return (k < suffix.k.shape[2] - num_tokens) & unfinished(grammar, beams)

    return jax.lax.while_loop(going, step, (jnp.zeros((), jnp.int32), _rows(suffix, parent), first))[2]
