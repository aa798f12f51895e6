"""The upper levels of a search: groups of windows, each window one token that has seen the query.

Letters: Q queries, q queries looked at together, U upper windows in N blocks of B, W dense windows, P parents, L
levels, n windows of a group, R groups asked together, F frames, D feature width, H LLM width, Tq query tokens of
CLIP, T question tokens, M inner nodes of a number tree, V vocabulary.

The sparse vector of a (query, window) is computed once and serves all levels and groups. At a level the windows
shown to it, in time order, are cut into groups of n; the last group is moved left so that it is whole, and a video
of fewer windows repeats its last. Groups may overlap, so that a window is read several times in other company; what
its groups say of it is averaged. Queries come in chunks, groups and windows in blocks: memory does not grow with
their number, except for one vector a window of the chunk.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from revision_jax.search.answering import Asking, encode_behind, finish_answers, read_questions
from revision_jax.search.confidence import confidence
from revision_jax.search.decoding import DecodeState, Grammar, decode_step
from revision_jax.search.dense_level import Questions, WindowTable
from revision_jax.search.selection import NumberTree, first_numbers, pass_down, window_scores


@dataclasses.dataclass(frozen=True, eq=False)
class Level:
    """What is fixed about one upper level.

    Attributes:
      size: `n`, windows of a group.
      tree: first numbers of the answers about a group.
      answer_tokens: of the longest answer, `</s>` included.
      readings: groups that show a window, but for the first and last windows; 1: groups do not overlap.
    """

    size: int
    tree: NumberTree
    answer_tokens: int
    readings: int = 1

    @property
    def stride(self) -> int:
        """Windows from one group to the next."""
        return max(self.size // self.readings, 1)

    def groups(self, count):
        """How many groups show `count` windows, an integer or a traced one."""
        return 1 - (-jnp.maximum(count - self.size, 0) // self.stride)


class UpperInputs(NamedTuple):
    """What the upper levels of a video's search get beside its features.

    Attributes:
      table: upper windows.
      questions: as the upper levels ask them.
      query: `[Q, Tq, D]`, CLIP's token features of the sentences.
      query_mask: `[Q, Tq]` bool.
      parents: `[W, P]` int32, flat numbers of upper windows, for every dense window.
      vectors: `[Q, U, H]`, the sparse vectors, where an earlier search of the same video left them; None makes them.
    """

    table: WindowTable
    questions: Questions
    query: jax.Array
    query_mask: jax.Array
    parents: jax.Array | None = None
    vectors: jax.Array | None = None


class LevelsFound(NamedTuple):
    """What the upper levels say.

    Attributes:
      scores: `[Q, W]` float32 of dense windows, the mean of their levels' (`selection.window_scores`); -inf for
        those that did not come through.
      shown: `[L, Q, U]` bool, the upper windows that each level was shown.
      decoded: `[L, Q]` int32, answer tokens generated.
    """

    scores: jax.Array
    shown: jax.Array
    decoded: jax.Array


def search_levels(
    upper, levels: tuple[Level, ...], grammars: tuple[Grammar, ...], policy, counts, prefix, features,
    inputs: UpperInputs, *, query_batch: int, group_block: int, decode_block: int, part: tuple = (0, 1),
) -> LevelsFound:  # fmt: skip
    """Goes through all upper levels, for the queries of this part.

    Args:
      upper: `models.Grounder` with a sparse adapter.
      levels, grammars: coarse first; a grammar holds the answers about a group of the level.
      policy: of `policies.py`.
      counts: `[L + 1]` int32, windows that each level is shown, and the dense ones asked.
      prefix: `[P]` int32, the tokens before the windows.
      features: `[frames, D]`, the whole video.
      query_batch: q; Q is a multiple of it.
      group_block: the most groups asked at a time.
      decode_block: groups decoded at a time after the first token.
      part: (number, of how many): chunks of queries are dealt out in turn. Others' results stay 0.
    """
    questions, number, parts = inputs.questions, *part
    num_queries, windows = len(questions.tokens), inputs.table.valid.size
    start = LevelsFound(
        jnp.zeros((num_queries, len(inputs.parents))),
        jnp.zeros((len(levels), num_queries, windows), bool),
        jnp.zeros((len(levels), num_queries), jnp.int32),
    )
    chunks = -(-questions.count // query_batch)

    def search_chunk(i, found: LevelsFound) -> LevelsFound:
        queries = (i * parts + number) * query_batch + jnp.arange(query_batch)
        asked = queries < questions.count
        shown = asked[:, None] & inputs.table.valid.reshape(-1)  # [q, U]
        sparse = sparse_vectors(upper, features, inputs, queries) if inputs.vectors is None else inputs.vectors[queries]
        total, trail, spent = jnp.zeros(shown.shape), [], []
        for place, (level, grammar) in enumerate(zip(levels, grammars)):
            scores, decoded = ask_level(
                upper, level, grammar, prefix, sparse, questions, queries, shown, counts[place], group_block,
                decode_block,
            )  # fmt: skip
            total = total + scores / len(levels)
            trail.append(shown)
            spent.append(decoded)
            shown = policy.survivors(total, shown, counts[place + 1])
        return LevelsFound(
            found.scores.at[queries].set(pass_down(total, inputs.parents), mode="drop"),
            found.shown.at[:, queries].set(jnp.stack(trail), mode="drop"),
            found.decoded.at[:, queries].set(jnp.stack(spent), mode="drop"),
        )

    return jax.lax.fori_loop(0, -(-chunks // parts), search_chunk, start)


def sparse_vectors(upper, features, inputs: UpperInputs, queries) -> jax.Array:
    """One vector for each of q queries and U windows: `[q, U, H]` in the LLM's dtype, a block of windows at a time."""
    table, batch = inputs.table, len(queries)
    blocks, block = table.valid.shape
    used = jnp.sum(jnp.any(table.valid, axis=1))
    real = jnp.clip(inputs.questions.count - queries[0], 0, batch)
    width = upper.llm.embed(jnp.zeros((1, 1), jnp.int32))
    vectors = jnp.zeros((batch, blocks, block, width.shape[-1]), width.dtype)

    def encode(i, vectors):
        j, b = i // used, i % used
        each = lambda x: jnp.broadcast_to(x[queries[j]], (block, *x.shape[1:]))
        new = upper.sparse_tokens(features[table.frames[b]], each(inputs.query), each(inputs.query_mask))
        return vectors.at[j, b].set(new.astype(vectors.dtype))

    return jax.lax.fori_loop(0, real * used, encode, vectors).reshape(batch, blocks * block, -1)


def ask_level(
    upper, level: Level, grammar: Grammar, prefix, sparse, questions: Questions, queries, shown, count,
    group_block: int, decode_block: int,
):  # fmt: skip
    """Asks all groups of one level.

    Args:
      sparse: `[q, U, H]`.
      queries: `[q]`, which of the questions.
      shown: `[q, U]` bool, the windows of this level, `count` for each query that is asked.

    Returns:
      scores `[q, U]` float32, -inf for windows that are not shown, and the answer tokens generated, `[q]`.
    """
    (batch, windows), size = shown.shape, level.size
    in_time = jnp.argsort(~shown, axis=1, stable=True)  # the windows shown come first, in their order
    num_groups = level.groups(count)
    rows = min(batch * -(-windows // size), group_block)

    def ask(i, carry):
        total, times, decoded = carry
        group, query = jnp.divmod(i * rows + jnp.arange(rows), batch)
        asked = (group < num_groups) & jnp.any(shown, axis=1)[query]
        first = jnp.minimum(group * level.stride, jnp.maximum(count - size, 0))
        place = first[:, None] + jnp.arange(size)
        real, place = place < count, jnp.minimum(place, count - 1)
        members = query[:, None], in_time[query[:, None], place]  # [R, n]
        cache = encode_behind(upper.llm, upper.embed_group(prefix, sparse[members]), questions.head)
        which = queries[query]
        answers, numbers = ask_groups(
            upper.llm, level, grammar, cache, questions.tokens[which], questions.lengths[which], asked, decode_block
        )
        span = grammar.answer[answers.state]
        sure = confidence("inverse_mean_entropy", answers.entropies, answers.log_likelihood, answers.length)
        new = window_scores(numbers, span[:, 1] - span[:, 0], sure)
        # What is said of a repetition is said of the last window.
        of_last = jnp.max(jnp.where(place == count - 1, new, -jnp.inf), axis=1, keepdims=True)
        new = jnp.where(place == count - 1, of_last, new)
        once = real & asked[:, None]
        total = total.at[members].add(jnp.where(once, new, 0.0))
        return total, times.at[members].add(once), decoded.at[query].add(answers.length * asked)

    start = jnp.zeros((batch, windows)), jnp.zeros((batch, windows), jnp.int32), jnp.zeros(batch, jnp.int32)
    total, times, decoded = jax.lax.fori_loop(0, -(-num_groups * batch // rows), ask, start)
    return jnp.where(times > 0, total / jnp.maximum(times, 1), -jnp.inf), decoded


def ask_groups(
    llm, level: Level, grammar: Grammar, cache, tokens, lengths, asked, decode_block: int
) -> tuple[DecodeState, jax.Array]:
    """Asks R cached groups one question each, tokens `[R, T]`: greedy answers, and the first number's `[R, n]`."""
    tree, (groups, num_tokens) = level.tree, tokens.shape
    nodes = len(tree.tokens)
    slots = max(nodes, level.answer_tokens - 1)  # the closing `</s>` is never fed back
    logits, suffix = read_questions(llm, cache, tokens[:, None], lengths[:, None], slots)
    # All inner nodes at once: each sees the question and the tokens on its way.
    position = cache.length + lengths[:, None] + jnp.asarray(tree.depth) - 1
    asks = (jnp.arange(num_tokens) < lengths[:, None])[:, None]  # [R, 1, T]
    mask = [jnp.broadcast_to(x, (groups, nodes, x.shape[-1])) for x in (asks, jnp.asarray(tree.sees)[None])]
    mask = jnp.pad(jnp.concatenate(mask, axis=2), ((0, 0), (0, 0), (0, slots - nodes)))
    fed = llm.embed(jnp.asarray(tree.tokens)[None])
    fed = jnp.broadcast_to(fed, (groups, *fed.shape[1:]))
    hidden, _ = llm.extend(fed, position, cache, suffix, num_tokens, mask)
    numbers = first_numbers(tree, jnp.concatenate([logits[:, None], llm.logits(hidden)], axis=1), level.size)
    first = decode_step(grammar, DecodeState.start(groups, level.answer_tokens), logits)
    answers = finish_answers(
        llm, grammar, cache, suffix, first, lengths[:, None], num_tokens, asked[:, None],
        Asking(level.answer_tokens, 1, decode_block),
    )  # fmt: skip
    return answers, numbers
