"""Decoding under the answer grammar: a frozen state and a pure step.

Letters: B pairs of (query, window), A answer tokens, V vocabulary, S grammar states, C choices of a state.

All pairs advance in lockstep; a pair whose answer is complete keeps its state. The grammar decides which tokens may
be taken. Entropies and likelihoods are those of the model's own distribution, before the grammar masks it.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.parallel.rules import unsplit
from revision_jax.prompts import AnswerGrammar
from revision_jax.search.answers.confidence import token_entropy


class Grammar(NamedTuple):
    """`prompts.AnswerGrammar` as arrays for the device.

    Attributes:
      tokens: `[S, C]` int32, allowed tokens, padded with -1.
      next: `[S, C]` int32, the state after each.
      answer: `[S, 2]` int32, frames of a final state, (-1, -1) `Not Present`, (-2, -2) not final.
      open: `[S]` bool, True where the answer may still become a span. Where it is False, nothing that decoding
        could add would change the result, so it stops.
    """

    tokens: jax.Array
    next: jax.Array
    answer: jax.Array
    open: jax.Array

    @classmethod
    def of(cls, grammar: AnswerGrammar) -> "Grammar":
        """The arrays of a grammar, and which of its states can still become a span."""
        final = grammar.answer[:, 0] > -2
        reaches = final & (grammar.answer[:, 0] >= 0)
        for _ in range(grammar.max_length):  # a span is at most `max_length` tokens away from any state
            reaches = reaches | np.any(reaches[grammar.next] & (grammar.tokens >= 0), axis=1)
        return cls(*(jnp.asarray(a) for a in (grammar.tokens, grammar.next, grammar.answer, reaches & ~final)))

    def scores(self, state: jax.Array, logits: jax.Array) -> jax.Array:
        """Logits of the tokens allowed in states `[...]`: `[..., V]` -> `[..., C]`, -inf where there is none."""
        allowed = self.tokens[state]
        scores = jnp.take_along_axis(unsplit(logits, logits.ndim - 1), jnp.maximum(allowed, 0), axis=-1)
        return jnp.where(allowed >= 0, scores, -jnp.inf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """B answers so far.

    Attributes:
      state: `[B]` int32, state of the grammar; 0 is its root.
      token: `[B]` int32, the last token taken.
      entropies: `[B, A]` float32, nats, of the tokens taken; 0 behind them.
      log_likelihood: `[B]` float32, the model's, of the tokens taken.
      length: `[B]` int32, tokens taken.
      pair: `[B]` int32, which (query, window) this is; it names the random numbers of a pair that is sampled.
    """

    state: jax.Array
    token: jax.Array
    entropies: jax.Array
    log_likelihood: jax.Array
    length: jax.Array
    pair: jax.Array

    @classmethod
    def start(cls, batch: int, answer_tokens: int, pair: jax.Array | None = None) -> "DecodeState":
        zeros = jnp.zeros(batch, jnp.int32)
        entropies = jnp.zeros((batch, answer_tokens), jnp.float32)
        return cls(zeros, zeros, entropies, jnp.zeros(batch, jnp.float32), zeros, zeros if pair is None else pair)


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Takes the likeliest allowed token."""

    def choose(self, scores: jax.Array, answers: DecodeState) -> jax.Array:
        """Logits of the allowed tokens `[B, C]` -> the places chosen, `[B]` int32."""
        return jnp.argmax(scores, axis=1)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draws from the allowed tokens, at a temperature. A pair's draws depend on nothing but the pair and the seed."""

    temperature: float
    seed: int = 0

    def choose(self, scores: jax.Array, answers: DecodeState) -> jax.Array:
        """As `Greedy.choose`."""
        key = jax.random.key(self.seed)
        keys = jax.vmap(lambda pair, step: jax.random.fold_in(jax.random.fold_in(key, pair), step))
        noise = jax.vmap(lambda key: jax.random.gumbel(key, scores.shape[1:]))(keys(answers.pair, answers.length))
        return jnp.argmax(scores / self.temperature + noise, axis=1)


GREEDY = Greedy()


def decode_step(
    grammar: Grammar, answers: DecodeState, logits: jax.Array, strategy: Greedy | Sampling = GREEDY
) -> DecodeState:
    """Takes one more token of each pair; complete answers stay as they are.

    Args:
      logits: `[B, V]` float32, raw.
    """
    return take(grammar, answers, logits, strategy.choose(grammar.scores(answers.state, logits), answers))


def take(grammar: Grammar, answers: DecodeState, logits: jax.Array, choice: jax.Array) -> DecodeState:
    """Takes the `choice`-th `[B]` of the allowed tokens; see `decode_step`."""
    pick = lambda table: jnp.take_along_axis(table[answers.state], choice[:, None], axis=1)[:, 0]
    going = grammar.answer[answers.state, 0] == -2
    token = jnp.maximum(pick(grammar.tokens), 0)  # the places that pad a state's tokens are never alive in a beam
    likelihood = jax.nn.log_softmax(logits)[jnp.arange(len(logits)), token]
    here = going[:, None] & (jnp.arange(answers.entropies.shape[1]) == answers.length[:, None])
    return dataclasses.replace(
        answers,
        state=jnp.where(going, pick(grammar.next), answers.state),
        token=token,
        entropies=jnp.where(here, token_entropy(logits)[:, None], answers.entropies),
        log_likelihood=answers.log_likelihood + jnp.where(going, likelihood, 0.0),
        length=answers.length + going,
    )
