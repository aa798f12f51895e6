"""Beam search over the answer grammar: the likeliest answers of a pair, each with its exact probability.

The grammar is a trie, which has one path to an answer: the beams of a pair are different answers, and the
log-likelihood of each is the exact sum over its tokens. As in every beam search, a likelier answer may be missed.

Letters: B windows, q queries asked together, R pairs decoded at a time, K beams a pair, V vocabulary, C choices.
"""

import dataclasses

import jax
import jax.numpy as jnp

from revision_jax.search.answers.decoding import DecodeState, Grammar, take


@dataclasses.dataclass(frozen=True)
class Beam:
    """Keeps the `width` likeliest answers of a pair."""

    width: int


def start_beams(pairs: int, width: int, answer_tokens: int) -> DecodeState:
    """`[pairs * width]` rows, those of a pair side by side; the first of them is alive (its likelihood is finite)."""
    alive = jnp.tile(jnp.where(jnp.arange(width) == 0, 0.0, -jnp.inf), pairs)
    return dataclasses.replace(DecodeState.start(pairs * width, answer_tokens), log_likelihood=alive)


def beam_step(
    grammar: Grammar, answers: DecodeState, logits: jax.Array, width: int
) -> tuple[DecodeState, jax.Array]:  # fmt: skip
    """Takes one more token of each beam and keeps the likeliest `width` of a pair.

    Args:
      answers: `[R * K]`.
      logits: `[R * K, V]` float32, raw.

    Returns:
      the new beams, and of each the row that it goes on from, `[R * K]` int32.
    """
    rows = len(logits)
    steps = grammar.scores(answers.state, jax.nn.log_softmax(logits))  # [R * K, C]
    complete = grammar.answer[answers.state, 0] > -2
    stays = jnp.where(jnp.arange(steps.shape[1]) == 0, 0.0, -jnp.inf)
    total = answers.log_likelihood[:, None] + jnp.where(complete[:, None], stays, steps)
    _, best = jax.lax.top_k(total.reshape(rows // width, -1), width)  # [R, K]
    parent, choice = jnp.divmod(best, steps.shape[1])
    parent = (jnp.arange(rows // width)[:, None] * width + parent).reshape(-1)
    # Where fewer tokens are allowed than there are beams, the surplus beams are dead from here on.
    alive = jnp.isfinite(jnp.take_along_axis(total.reshape(rows // width, -1), best, axis=1)).reshape(-1)
    taken = take(grammar, jax.tree.map(lambda x: x[parent], answers), logits[parent], choice.reshape(-1))
    likelihood = jnp.where(alive, taken.log_likelihood, -jnp.inf)
    return dataclasses.replace(taken, log_likelihood=likelihood), parent


def unfinished(grammar: Grammar, answers: DecodeState) -> jax.Array:
    """`[]` bool: whether some beam that is alive may still become a span."""
    return jnp.any(grammar.open[answers.state] & jnp.isfinite(answers.log_likelihood))
