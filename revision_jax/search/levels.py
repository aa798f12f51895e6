"""The upper levels of a search: groups of windows, each window one token that has seen the query.

Letters: Q queries, q queries looked at together, U upper windows in N blocks of B, W dense windows, P parents, L
levels, n windows of a group, R groups asked together, F frames, D feature width, H LLM width, Tq query tokens of
CLIP, T question tokens, M inner nodes of a number tree, V vocabulary.

The sparse vector of a (query, window) is computed once and serves all levels and groups. At a level the windows
shown to it, in time order, are cut into groups of n; the last group is moved left so that it is whole, and a video
of fewer windows repeats its last. Queries come in chunks, groups and windows in blocks: memory does not grow with
their number, except for one vector a window of the chunk.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from revision_jax.search.confidence import inverse_mean_entropy
from revision_jax.search.decoding import DecodeState, Grammar, decode_step
from revision_jax.search.recursion import Questions, WindowTable, encode_behind, finish_answers, read_questions
from revision_jax.search.selection import NumberTree, first_numbers, pass_down, window_scores


class Level(NamedTuple):
    """How one level reads answers about its groups: the grammar of `group_answers(n)` and its tree of numbers."""

    grammar: Grammar
    tree: NumberTree


class UpperInputs(NamedTuple):
    """What the upper levels of a video's search get beside its features.

    Attributes:
      table: upper windows.
      parents: `[W, P]` int32, flat numbers of upper windows, for every dense window.
      counts: `[L + 1]` int32, windows that each level is shown, and the dense ones asked.
      questions: as the upper levels ask them.
      query: `[Q, Tq, D]`, CLIP's token features of the sentences.
      query_mask: `[Q, Tq]` bool.
    """

    table: WindowTable
    parents: jax.Array
    counts: jax.Array
    questions: Questions
    query: jax.Array
    query_mask: jax.Array


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
    upper, levels: tuple[Level, ...], sizes: tuple[int, ...], policy, prefix, features, inputs: UpperInputs, *,
    query_batch: int, group_block: int, decode_block: int, part: tuple = (0, 1),
) -> LevelsFound:  # fmt: skip
    """Goes through all upper levels, for the queries of this part.

    Args:
      upper: `models.Grounder` with a sparse adapter.
      sizes: windows of a group at each level, coarse first.
      policy: of `policies.py`.
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
        jnp.zeros((len(sizes), num_queries, windows), bool),
        jnp.zeros((len(sizes), num_queries), jnp.int32),
    )
    chunks = -(-questions.count // query_batch)

    def search_chunk(i, found: LevelsFound) -> LevelsFound:
        queries = (i * parts + number) * query_batch + jnp.arange(query_batch)
        asked = queries < questions.count
        shown = asked[:, None] & inputs.table.valid.reshape(-1)  # [q, U]
        sparse = sparse_vectors(upper, features, inputs, queries)
        total, trail, spent = jnp.zeros(shown.shape), [], []
        for level, size, count, next_count in zip(levels, sizes, inputs.counts, inputs.counts[1:]):
            scores, decoded = ask_level(
                upper.llm, level, size, prefix, sparse, questions, queries, shown, count, group_block, decode_block
            )
            total = total + scores / len(sizes)
            trail.append(shown)
            spent.append(decoded)
            shown = policy.survivors(total, shown, next_count)
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
    hidden = jax.eval_shape(upper.llm.embed, jax.ShapeDtypeStruct((1, 1), jnp.int32))
    vectors = jnp.zeros((batch, blocks, block, hidden.shape[-1]), hidden.dtype)

    def encode(i, vectors):
        j, b = i // used, i % used
        each = lambda x: jnp.broadcast_to(x[queries[j]], (block, *x.shape[1:]))
        new = upper.sparse_tokens(features[table.frames[b]], each(inputs.query), each(inputs.query_mask))
        return vectors.at[j, b].set(new.astype(vectors.dtype))

    return jax.lax.fori_loop(0, batch * used, encode, vectors).reshape(batch, blocks * block, -1)


def ask_level(
    llm, level: Level, size: int, prefix, sparse, questions: Questions, queries, shown, count, group_block: int,
    decode_block: int,
):  # fmt: skip
    """Asks all groups of one level.

    Args:
      sparse: `[q, U, H]`.
      queries: `[q]`, which of the questions.
      shown: `[q, U]` bool, the windows of this level, `count` for each query that is asked.

    Returns:
      scores `[q, U]` float32, -inf for windows that are not shown, and the answer tokens generated, `[q]`.
    """
    batch, windows = shown.shape
    in_time = jnp.argsort(~shown, axis=1, stable=True)  # the windows shown come first, in their order
    num_groups = -(-count // size)
    rows = min(batch * -(-windows // size), group_block)
    head = llm.embed(prefix[None])

    def ask(i, carry):
        scores, decoded = carry
        group, query = jnp.divmod(i * rows + jnp.arange(rows), batch)
        asked = (group < num_groups) & jnp.any(shown, axis=1)[query]
        first = jnp.minimum(group * size, jnp.maximum(count - size, 0))
        place = jnp.minimum(first[:, None] + jnp.arange(size), count - 1)
        members = query[:, None], in_time[query[:, None], place]  # [R, n]
        context = jnp.concatenate([jnp.broadcast_to(head, (rows, *head.shape[1:])), sparse[members]], axis=1)
        cache = encode_behind(llm, context, questions.head)
        which = queries[query]
        answers, numbers = ask_groups(
            llm, level, size, cache, questions.tokens[which], questions.lengths[which], asked, decode_block
        )
        span = level.grammar.answer[answers.state]
        confidence = inverse_mean_entropy(answers.entropy_sum, answers.length)
        new = window_scores(numbers, span[:, 1] - span[:, 0], confidence)
        scores = scores.at[members].max(jnp.where(asked[:, None], new, -jnp.inf))
        return scores, decoded.at[query].add(answers.length * asked)

    start = jnp.full((batch, windows), -jnp.inf), jnp.zeros(batch, jnp.int32)
    return jax.lax.fori_loop(0, -(-num_groups * batch // rows), ask, start)


def ask_groups(
    llm, level: Level, size: int, cache, tokens, lengths, asked, decode_block: int
) -> tuple[DecodeState, jax.Array]:
    """Asks R cached groups one question each, tokens `[R, T]`: greedy answers, and the first number's `[R, n]`."""
    tree, num_tokens = level.tree, tokens.shape[1]
    nodes, steps = len(tree.tokens), level.grammar.longest - 1
    logits, suffix = read_questions(llm, cache, tokens[:, None], lengths[:, None], max(nodes, steps))
    # All inner nodes at once: each sees the question and the tokens on its way.
    position = cache.length + lengths[:, None] + jnp.asarray(tree.depth) - 1
    sees = (jnp.arange(num_tokens) < lengths[:, None])[:, None]  # [R, 1, T]
    sees = jnp.concatenate([
        jnp.broadcast_to(sees, (len(tokens), nodes, num_tokens)),
        jnp.broadcast_to(jnp.asarray(tree.sees), (len(tokens), nodes, nodes)),
    ], axis=2)  # fmt: skip
    sees = jnp.pad(sees, ((0, 0), (0, 0), (0, suffix.length - sees.shape[2])))
    fed = jnp.broadcast_to(llm.embed(jnp.asarray(tree.tokens)[None]), (len(tokens), nodes, cache_width(llm)))
    hidden, _ = llm.extend(fed, position, cache, suffix, num_tokens, sees)
    numbers = first_numbers(tree, jnp.concatenate([logits[:, None], llm.logits(hidden)], axis=1), size)
    first = decode_step(level.grammar, DecodeState.start(len(tokens)), logits)
    answers = finish_answers(
        llm, level.grammar, cache, suffix, first, lengths[:, None], num_tokens, asked[:, None], decode_block
    )
    return answers, numbers
