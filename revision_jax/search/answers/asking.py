"""Asks cached rows: questions are read behind a shared key/value cache, then answers are decoded to their end.

A row is a window, or a group of windows; its cache is read in place by all its questions. After the first answer
token only pairs that are still open are decoded further, a block at a time, so that memory does not grow with their
number.

Letters: B rows, q questions of a row, K answers (beams) of a pair, R pairs decoded at a time, C context tokens, h
tokens of the shared head, T question tokens, S slots of the suffix cache, A answer tokens, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from revision_jax.models.llama import KVCache, Llama
from revision_jax.parallel.rules import agreed, unsplit
from revision_jax.search.answers.beam import Beam, beam_step, start_beams, unfinished
from revision_jax.search.answers.decoding import GREEDY, DecodeState, Grammar, Greedy, Sampling, decode_step


@dataclasses.dataclass(frozen=True)
class Asking:
    """How pairs are asked; static.

    Attributes:
      answer_tokens: `A`, of the longest answer, `</s>` included.
      query_batch: queries asked together of a block of windows; Q is a multiple of it.
      decode_block: pairs decoded at a time after the first token.
      strategy: how an answer is chosen.
    """

    answer_tokens: int
    query_batch: int
    decode_block: int
    strategy: Greedy | Sampling | Beam = GREEDY

    @property
    def beams(self) -> int:
        """`K`, answers kept of each pair."""
        return self.strategy.width if isinstance(self.strategy, Beam) else 1


@dataclasses.dataclass(frozen=True)
class Answerer:
    """A language model with the grammar of its answers; made inside a traced function, never an argument of one."""

    llm: Llama
    grammar: Grammar
    asking: Asking


class Pairs(NamedTuple):
    """Pairs of a cached row and a question, q questions for each of B rows.

    Attributes:
      tokens: `[B, q, T]` int32, questions behind the shared head, right-padded.
      lengths: `[B, q]` int32, their tokens.
      asked: `[B, q]` bool, False for pairs that need no answer.
      number: `[B, q]` int32, names the pair; sampling draws by it.
    """

    tokens: jax.Array
    lengths: jax.Array
    asked: jax.Array
    number: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class ReadPairs:
    """Pairs whose question was read; made inside a traced function.

    Attributes:
      prefix: key/value cache of the B rows.
      suffix: key/value cache of question and answer of each of the R pairs; those of a row lie side by side.
      lengths: `[R]` int32, tokens of the questions.
      num_tokens: T, slots of the suffix that belong to the question.
    """

    prefix: KVCache
    suffix: KVCache
    lengths: jax.Array
    num_tokens: int

    def take(self, pairs: jax.Array, copies: int = 1) -> "ReadPairs":
        """Some pairs `[n]`, each with a prefix of its own; suffix and length of each are copied `copies` times."""
        questions = len(self.lengths) // self.prefix.k.shape[1]
        each = jnp.repeat(pairs, copies) if copies > 1 else pairs
        return ReadPairs(
            _rows(self.prefix, pairs // questions), _rows(self.suffix, each), self.lengths[each], self.num_tokens
        )

    @property
    def answer_slots(self) -> int:
        """Slots of the suffix that hold answer tokens."""
        return self.suffix.k.shape[2] - self.num_tokens


_Carry = tuple[jax.Array, KVCache, DecodeState]  # answer tokens fed, suffix cache, answers


def encode_context(llm: Llama, context: jax.Array, head: jax.Array) -> KVCache:
    """The key/value cache of (context `[B, C, H]`, head `[h]` int32): C + h slots a row."""
    embedded = llm.embed(head[None])
    embedded = jnp.broadcast_to(embedded, (context.shape[0], *embedded.shape[1:]))
    return llm.prefill(jnp.concatenate([context, embedded], axis=1))[1]


def answer_pairs(answerer: Answerer, prefix: KVCache, pairs: Pairs) -> DecodeState:
    """Asks q questions of each of B cached rows: -> `B * q * K` answers, those of a row side by side."""
    asking = answerer.asking
    # The closing `</s>` is never fed back.
    logits, read = read_questions(answerer.llm, prefix, pairs, asking.answer_tokens - 1)
    if asking.beams > 1:
        return finish_beams(answerer, read, logits, pairs.asked)
    first = DecodeState.start(len(logits), asking.answer_tokens, pairs.number.reshape(-1))
    first = decode_step(answerer.grammar, first, logits, asking.strategy)
    return finish_answers(answerer, read, first, pairs.asked)


def answer_in_lockstep(answerer: Answerer, prefix: KVCache, pairs: Pairs) -> DecodeState:
    """`answer_pairs`, greedily, of few rows at a time: no row moves, so that rows may lie on different devices."""
    logits, read = read_questions(answerer.llm, prefix, pairs, answerer.asking.answer_tokens - 1)
    first = decode_step(answerer.grammar, DecodeState.start(len(logits), answerer.asking.answer_tokens), logits)
    return _decode(answerer, read, first)


def read_questions(llm: Llama, prefix: KVCache, pairs: Pairs, answer_slots: int) -> tuple[jax.Array, ReadPairs]:
    """Reads q questions behind each of B cached rows.

    Args:
      answer_slots: slots kept free for answer tokens behind each question.

    Returns:
      raw logits `[B * q, V]` of the first answer token, and the pairs with a suffix cache of T + answer_slots slots.
    """
    tokens, lengths = pairs.tokens, pairs.lengths
    count, num_tokens = tokens.shape[0] * tokens.shape[1], tokens.shape[2]
    slots = num_tokens + answer_slots
    empty = lambda x: jnp.zeros((x.shape[0], count, slots, *x.shape[3:]), x.dtype)
    positions = jnp.arange(num_tokens)
    causal = jnp.arange(slots)[None, :] <= positions[:, None]  # [T, S]
    each_pair = lambda x: jnp.broadcast_to(x, (count, *x.shape))
    hidden, suffix = llm.extend(
        llm.embed(tokens.reshape(count, num_tokens)), each_pair(prefix.length + positions), prefix,
        jax.tree.map(empty, prefix), 0, each_pair(causal),
    )  # fmt: skip
    last = jnp.take_along_axis(hidden, (lengths.reshape(-1) - 1)[:, None, None], axis=1)[:, 0]
    return llm.logits(last), ReadPairs(prefix, suffix, lengths.reshape(-1), num_tokens)


def finish_answers(answerer: Answerer, read: ReadPairs, answers: DecodeState, asked: jax.Array) -> DecodeState:
    """Decodes answers that are still open to their end, a block of pairs at a time; `asked [B, q]` bool."""
    finish = lambda rows, some: _decode(answerer, read.take(rows), some)
    todo = answerer.grammar.open[answers.state] & asked.reshape(-1)
    return _in_blocks(todo, answerer.asking.decode_block, finish, answers)


def finish_beams(answerer: Answerer, read: ReadPairs, logits: jax.Array, asked: jax.Array) -> DecodeState:
    """From the logits of the first answer token `[B * q, V]` to K answers a pair; see `finish_answers`."""
    asking = answerer.asking
    pairs, width = asked.size, asking.beams
    nothing = dataclasses.replace(
        start_beams(pairs, width, asking.answer_tokens), log_likelihood=jnp.full(pairs * width, -jnp.inf)
    )

    def finish(rows: jax.Array, _: DecodeState) -> DecodeState:
        some = _decode_beams(answerer, read.take(rows, width), logits[jnp.repeat(rows, width)])
        return jax.tree.map(lambda x: x.reshape(len(rows), width, *x.shape[1:]), some)

    beams = jax.tree.map(lambda x: x.reshape(pairs, width, *x.shape[1:]), nothing)
    beams = _in_blocks(asked.reshape(-1), max(asking.decode_block // width, 1), finish, beams)
    return jax.tree.map(lambda x: x.reshape(pairs * width, *x.shape[2:]), beams)


def _rows(cache: KVCache, rows: jax.Array) -> KVCache:
    """Some rows of a key/value cache."""
    return jax.tree.map(lambda x: unsplit(x, 1)[:, rows], cache)


def _in_blocks(
    todo: jax.Array, block: int, finish: Callable[[jax.Array, DecodeState], DecodeState], answers: DecodeState
) -> DecodeState:
    """Applies `finish(rows, their answers)` to the pairs `todo [pairs]` bool, a block at a time."""
    pairs = len(todo)
    order = jnp.argsort(~todo, stable=True)  # these pairs first
    order = jnp.pad(order, (0, -pairs % block))
    count = jnp.sum(todo)

    def finish_block(i: jax.Array, answers: DecodeState) -> DecodeState:
        rows = jax.lax.dynamic_slice_in_dim(order, i * block, block)
        # Rows of the block past the last such pair are copies of its first row, so that they never prolong the
        # block. They are not written back: row `pairs` does not exist.
        real = i * block + jnp.arange(block) < count
        rows = jnp.where(real, rows, rows[0])
        some = finish(rows, jax.tree.map(lambda x: x[rows], answers))
        back = jnp.where(real, rows, pairs)
        return jax.tree.map(lambda x, y: x.at[back].set(y, mode="drop"), answers, some)

    return jax.lax.fori_loop(0, agreed(-(-count // block)), finish_block, answers)


def _extend(llm: Llama, read: ReadPairs, suffix: KVCache, tokens: jax.Array, k: jax.Array) -> tuple[jax.Array, KVCache]:
    """Feeds the k-th answer token of each row `[R]`: -> raw logits `[R, V]` of the next one, and the suffix cache."""
    slot, write_at = jnp.arange(suffix.k.shape[2]), read.num_tokens + k
    # The question's own slots, then the answer's up to this one; padding between them is never seen.
    mask = (slot < read.lengths[:, None]) | ((slot >= read.num_tokens) & (slot <= write_at))
    position = (read.prefix.k.shape[2] + read.lengths + k)[:, None]
    hidden, suffix = llm.extend(llm.embed(tokens[:, None]), position, read.prefix, suffix, write_at, mask[:, None])
    return llm.logits(hidden[:, 0]), suffix


def _decode(answerer: Answerer, read: ReadPairs, answers: DecodeState) -> DecodeState:
    """Decodes rows in lockstep from the first answer token on, until no answer is open."""
    grammar = answerer.grammar

    def step(carry: _Carry) -> _Carry:
        k, suffix, answers = carry
        logits, suffix = _extend(answerer.llm, read, suffix, answers.token, k)
        return k + 1, suffix, decode_step(grammar, answers, logits, answerer.asking.strategy)

    unfinished = lambda answers: jnp.any(grammar.open[answers.state])
    return _in_lockstep(read.answer_slots, step, unfinished, (jnp.zeros((), jnp.int32), read.suffix, answers))


def _decode_beams(answerer: Answerer, read: ReadPairs, logits: jax.Array) -> DecodeState:
    """Decodes beams in lockstep from the first answer token on, `logits [R * K, V]` of it, until no beam is open."""
    grammar, width = answerer.grammar, answerer.asking.beams
    start = start_beams(len(logits) // width, width, answerer.asking.answer_tokens)
    first, parent = beam_step(grammar, start, logits, width)

    def step(carry: _Carry) -> _Carry:
        k, suffix, beams = carry
        logits, suffix = _extend(answerer.llm, read, suffix, beams.token, k)
        beams, parent = beam_step(grammar, beams, logits, width)
        return k + 1, _rows(suffix, parent), beams

    start = jnp.zeros((), jnp.int32), _rows(read.suffix, parent), first
    return _in_lockstep(read.answer_slots, step, functools.partial(unfinished, grammar), start)


def _in_lockstep(
    slots: int, step: Callable[[_Carry], _Carry], unfinished: Callable[[DecodeState], jax.Array], start: _Carry
) -> DecodeState:
    """Takes steps until no answer is unfinished, on any device where these must agree, or no slot is left."""
    going = lambda carry: (carry[0] < slots) & agreed(unfinished(carry[2]))

    def next_step(state: tuple[jax.Array, _Carry]) -> tuple[jax.Array, _Carry]:
        carry = step(state[1])
        return going(carry), carry

    return jax.lax.while_loop(lambda state: state[0], next_step, (going(start), start))[1][2]
