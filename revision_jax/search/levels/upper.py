"""The upper levels of a search: groups of windows, each window one token that has seen the query.

Letters: Q queries, q queries looked at together, U upper windows in N blocks of B, W dense windows, P parents, L
levels, n windows of a group, R groups asked together, F frames, D feature width, H LLM width, Tq query tokens of
CLIP, T question tokens, M inner nodes of a number tree, V vocabulary.

The sparse vector of a (query, window) is computed once and serves all levels and groups. The windows shown to a
level, in time order, are cut into groups of n. The last group is moved left so that it is whole; where there are fewer
than n windows, the last one is repeated. Groups may overlap; then a window's score is the mean over its groups. Queries
are searched in chunks, groups and windows in blocks: memory does not grow with their number, except for one vector for
each window and query of a chunk.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import KVCache
from revision_jax.parallel.rules import agreed, unsplit
from revision_jax.search.answers.asking import (
    Answerer,
    Asking,
    Pairs,
    encode_context,
    finish_answers,
    read_questions,
)
from revision_jax.search.answers.confidence import INVERSE_MEAN_ENTROPY, confidence
from revision_jax.search.answers.decoding import DecodeState, Grammar, decode_step
from revision_jax.search.levels.selection import (
    NumberTree,
    first_numbers,
    pass_down,
    window_scores,
)
from revision_jax.search.levels.similarity import window_similarity
from revision_jax.search.packing.inputs import UpperInputs
from revision_jax.search.policy import Policy


@dataclasses.dataclass(frozen=True, eq=False)
class UpperLevel:
    """What is fixed about one upper level.

    Attributes:
      size: `n`, windows of a group.
      tree: first numbers of the answers about a group.
      answer_tokens: of the longest answer, `</s>` included.
      readings: groups that show a window (fewer show the first and last windows); 1: groups do not overlap.
    """

    size: int
    tree: NumberTree
    answer_tokens: int
    readings: int = 1

    @property
    def stride(self) -> int:
        """Windows from one group to the next."""
        return max(self.size // self.readings, 1)

    def groups(self, count: int | jax.Array) -> jax.Array:
        """How many groups show `count` windows, `[]` int32."""
        return 1 - (-jnp.maximum(count - self.size, 0) // self.stride)


@dataclasses.dataclass(frozen=True)
class UpperAsking:
    """How the upper levels are searched; static.

    Attributes:
      levels: coarse first.
      policy: chooses the windows that a level sends down.
      query_batch: q; Q is a multiple of it.
      group_block: the most groups asked at a time.
      decode_block: groups decoded at a time after the first token.
    """

    levels: tuple[UpperLevel, ...]
    policy: Policy
    query_batch: int
    group_block: int
    decode_block: int


class UpperData(NamedTuple):
    """The arrays that the upper levels work on.

    Attributes:
      prefix: `[P]` int32, the tokens before the windows.
      grammars: of the answers about a group, one a level.
      counts: `[L + 1]` int32, windows that each level is shown, and the dense windows that are asked.
      features: `[frames, D]`, the whole video.
      inputs: upper windows and questions.
    """

    prefix: jax.Array
    grammars: tuple[Grammar, ...]
    counts: jax.Array
    features: jax.Array
    inputs: UpperInputs


class LevelsFound(NamedTuple):
    """What the upper levels find.

    Attributes:
      scores: `[Q, W]` float32 of dense windows, the mean of their levels' scores (`selection.window_scores`); -inf
        for windows that were not sent down.
      shown: `[L, Q, U]` bool, the upper windows that each level was shown.
      decoded: `[L, Q]` int32, answer tokens generated.
    """

    scores: jax.Array
    shown: jax.Array
    decoded: jax.Array


class Chunk(NamedTuple):
    """The q queries that go through the levels together.

    Attributes:
      prefix: `[P]` int32, the tokens before the windows.
      head: `[h]` int32, the tokens with which all questions begin.
      tokens: `[q, T]` int32, the rest of each question; lengths: `[q]` int32.
      sparse: `[q, U, H]`, the sparse vector of every (query, window).
    """

    prefix: jax.Array
    head: jax.Array
    tokens: jax.Array
    lengths: jax.Array
    sparse: jax.Array


class Shown(NamedTuple):
    """The windows that a level is shown: `windows [q, U]` bool, `count` of them for each query that is asked."""

    windows: jax.Array
    count: jax.Array


def search_levels(
    upper: Grounder, data: UpperData, asking: UpperAsking, part: tuple[int | jax.Array, int] = (0, 1)
) -> LevelsFound:
    """Goes through all upper levels, for the queries of this part.

    Args:
      upper: a grounder with a sparse adapter.
      part: (number, of how many): chunks of queries are dealt out in turn. The results of other parts stay 0.
    """
    inputs, (number, parts) = data.inputs, part
    questions, query_batch, num_levels = inputs.questions, asking.query_batch, len(asking.levels)
    num_queries, windows = len(questions.tokens), inputs.table.valid.size
    start = LevelsFound(
        jnp.zeros((num_queries, len(inputs.parents))),
        jnp.zeros((num_levels, num_queries, windows), bool),
        jnp.zeros((num_levels, num_queries), jnp.int32),
    )
    chunks = -(-questions.count // query_batch)

    def search_chunk(i: jax.Array, found: LevelsFound) -> LevelsFound:
        queries = (i * parts + number) * query_batch + jnp.arange(query_batch)
        asked = queries < questions.count
        shown = asked[:, None] & inputs.table.valid.reshape(-1)  # [q, U]
        similarity = None
        if asking.policy.shortlists:
            similarity = window_similarity(data.features, inputs.table.frames, inputs.similar[queries]).score
        shown = asking.policy.first_shown(shown, similarity, data.counts[0])
        ask = _asking(upper, data, asking, queries, shown)
        total, trail, decoded = jnp.zeros(shown.shape), [], []
        for place in range(num_levels):
            scores, tokens = ask(Shown(shown, data.counts[place]), place)
            total = total + scores / num_levels
            trail.append(shown)
            decoded.append(tokens)
            shown = asking.policy.survivors(total, shown, data.counts[place + 1])
        return LevelsFound(
            found.scores.at[queries].set(pass_down(total, inputs.parents), mode="drop"),
            found.shown.at[:, queries].set(jnp.stack(trail), mode="drop"),
            found.decoded.at[:, queries].set(jnp.stack(decoded), mode="drop"),
        )

    return jax.lax.fori_loop(0, -(-chunks // parts), search_chunk, start)  # as often on every part


def _asking(
    upper: Grounder, data: UpperData, asking: UpperAsking, queries: jax.Array, first_shown: jax.Array
) -> Callable[[Shown, int], tuple[jax.Array, jax.Array]]:
    """How the level at a place is asked by these queries `[q]`: see `ask_level`, or what was read before."""
    inputs, questions = data.inputs, data.inputs.questions

    def read(shown: Shown, place: int) -> tuple[jax.Array, jax.Array]:
        reading = inputs.readings[place]
        return jnp.where(shown.windows, reading.scores[queries], -jnp.inf), reading.decoded[queries]

    if len(inputs.readings) == len(asking.levels):
        return read
    made = inputs.vectors is None
    sparse = sparse_vectors(upper, data.features, inputs, queries, first_shown) if made else inputs.vectors[queries]
    chunk = Chunk(
        data.prefix, questions.head, questions.tokens[queries], questions.lengths[queries], unsplit(sparse, 0, 1, 2)
    )

    def ask(shown: Shown, place: int) -> tuple[jax.Array, jax.Array]:
        if place < len(inputs.readings):
            return read(shown, place)
        return ask_level(upper, data.grammars[place], chunk, shown, asking, place)

    return ask


def sparse_vectors(
    upper: Grounder, features: jax.Array, inputs: UpperInputs, queries: jax.Array, shown: jax.Array
) -> jax.Array:
    """One vector for each pair of q queries and U windows that is shown: `[q, U, H]` in the LLM's dtype, 0 elsewhere.

    A block of pairs (query, window) is encoded at a time, padding in the last block alone: it costs no time.

    Args:
      queries: `[q]` int32, their numbers; shown: `[q, U]` bool.
    """
    table, (batch, slots) = inputs.table, shown.shape
    frames, block = table.frames.reshape(slots, -1), table.valid.shape[1]
    order, pairs = jnp.argsort(~shown.reshape(-1), stable=True), jnp.sum(shown)  # pairs shown come first
    width = upper.llm.embed(jnp.zeros((1, 1), jnp.int32))
    vectors = jnp.zeros((batch, slots, width.shape[-1]), width.dtype)

    def encode(i: jax.Array, vectors: jax.Array) -> jax.Array:
        pair = i * block + jnp.arange(block)
        query, window = jnp.divmod(order[jnp.clip(pair, 0, pairs - 1)], slots)
        row = queries[query]
        new = upper.sparse_tokens(features[frames[window]], inputs.query[row], inputs.query_mask[row])
        return vectors.at[jnp.where(pair < pairs, query, batch), window].set(new.astype(vectors.dtype), mode="drop")

    return jax.lax.fori_loop(0, agreed(-(-pairs // block)), encode, vectors)


def ask_level(
    upper: Grounder, grammar: Grammar, chunk: Chunk, shown: Shown, asking: UpperAsking, place: int
) -> tuple[jax.Array, jax.Array]:
    """Asks all groups of the level at a place of `asking.levels`.

    Returns:
      scores `[q, U]` float32, -inf for windows that are not shown, and the answer tokens generated, `[q]` int32.
    """
    (batch, windows), level = shown.windows.shape, asking.levels[place]
    size, count = level.size, shown.count
    in_time = jnp.argsort(~shown.windows, axis=1, stable=True)  # the windows shown come first, in their order
    asks = jnp.any(shown.windows, axis=1)
    num_groups = level.groups(count)
    rows = min(batch * -(-windows // size), asking.group_block)
    answerer = Answerer(upper.llm, grammar, Asking(level.answer_tokens, 1, asking.decode_block))

    def ask(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        total, times, decoded = carry
        group, query = jnp.divmod(i * rows + jnp.arange(rows), batch)
        asked = (group < num_groups) & asks[query]
        first = jnp.minimum(group * level.stride, jnp.maximum(count - size, 0))
        index = first[:, None] + jnp.arange(size)
        real, index = index < count, jnp.minimum(index, count - 1)
        members = query[:, None], in_time[query[:, None], index]  # [R, n]
        cache = encode_context(upper.llm, upper.embed_group(chunk.prefix, chunk.sparse[members]), chunk.head)
        pairs = Pairs(chunk.tokens[query][:, None], chunk.lengths[query][:, None], asked[:, None])
        answers, numbers = ask_groups(answerer, level, cache, pairs)
        span = grammar.answer[answers.state]
        sure = confidence(INVERSE_MEAN_ENTROPY, answers.entropies, answers.log_likelihood, answers.length)
        new = window_scores(numbers, span[:, 1] - span[:, 0], sure)
        # A group of too few windows repeats its last window; that window takes the best score of its copies.
        of_last = jnp.max(jnp.where(index == count - 1, new, -jnp.inf), axis=1, keepdims=True)
        new = jnp.where(index == count - 1, of_last, new)
        once = real & asked[:, None]
        total = total.at[members].add(jnp.where(once, new, 0.0))
        return total, times.at[members].add(once), decoded.at[query].add(answers.length * asked)

    start = jnp.zeros((batch, windows)), jnp.zeros((batch, windows), jnp.int32), jnp.zeros(batch, jnp.int32)
    total, times, decoded = jax.lax.fori_loop(0, -(-num_groups * batch // rows), ask, start)
    return jnp.where(times > 0, total / jnp.maximum(times, 1), -jnp.inf), decoded


def ask_groups(
    answerer: Answerer, level: UpperLevel, cache: KVCache, pairs: Pairs
) -> tuple[DecodeState, jax.Array]:  # fmt: skip
    """Asks each of R cached groups one question: greedy answers, and the distribution of the first number `[R, n]`."""
    llm, tree = answerer.llm, level.tree
    (groups, _, num_tokens), nodes = pairs.tokens.shape, len(level.tree.tokens)
    slots = max(nodes, level.answer_tokens - 1)  # the closing `</s>` is never fed back
    logits, read = read_questions(llm, cache, pairs, slots)
    # All inner nodes at once: each sees the question and the tokens on the path to it.
    position = cache.length + pairs.lengths + jnp.asarray(tree.depth) - 1
    asks = (jnp.arange(num_tokens) < pairs.lengths)[:, None]  # [R, 1, T]
    mask = [jnp.broadcast_to(x, (groups, nodes, x.shape[-1])) for x in (asks, jnp.asarray(tree.sees)[None])]
    mask = jnp.pad(jnp.concatenate(mask, axis=2), ((0, 0), (0, 0), (0, slots - nodes)))
    fed = llm.embed(jnp.asarray(tree.tokens)[None])
    fed = jnp.broadcast_to(fed, (groups, *fed.shape[1:]))
    hidden, _ = llm.extend(fed, position, cache, read.suffix, num_tokens, mask)
    numbers = first_numbers(tree, jnp.concatenate([logits[:, None], llm.logits(hidden)], axis=1), level.size)
    first = decode_step(answerer.grammar, DecodeState.start(groups, level.answer_tokens), logits)
    return finish_answers(answerer, read, first, pairs.asked), numbers
