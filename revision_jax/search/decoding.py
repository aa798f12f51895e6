"""Greedy decoding under the answer grammar: a frozen state and a pure step.

Letters: B pairs of (query, window), V vocabulary, S grammar states, C choices of a state.

All pairs advance in lockstep; a pair whose answer is complete keeps its state. The grammar masks which token is
taken, never the entropy: confidence is about the model, not about the grammar.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.search.confidence import token_entropy

NOT_PRESENT = -1


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
    def of(cls, grammar) -> "Grammar":
        """The arrays of a `prompts.AnswerGrammar`, with what can still become a span worked out."""
        final = grammar.answer[:, 0] > -2
        reaches = final & (grammar.answer[:, 0] >= 0)
        for _ in range(grammar.max_length):  # a span is at most `max_length` tokens away from any state
            reaches = reaches | np.any(reaches[grammar.next] & (grammar.tokens >= 0), axis=1)
        return cls(*(jnp.asarray(a) for a in (grammar.tokens, grammar.next, grammar.answer, reaches & ~final)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeState:
    """Where B answers stand.

    Attributes:
      state: `[B]` int32, state of the grammar; 0 is its root.
      token: `[B]` int32, the last token taken.
      entropy_sum: `[B]` float32, nats, over the tokens taken.
      length: `[B]` int32, tokens taken.
    """

    state: jax.Array
    token: jax.Array
    entropy_sum: jax.Array
    length: jax.Array

    @classmethod
    def start(cls, batch: int) -> "DecodeState":
        zeros = jnp.zeros(batch, jnp.int32)
        return cls(zeros, zeros, jnp.zeros(batch, jnp.float32), zeros)


def decode_step(grammar: Grammar, state: DecodeState, logits: jax.Array) -> DecodeState:
    """Takes the likeliest allowed token of each pair; complete answers stay as they are.

    Args:
      logits: `[B, V]` float32, raw.
    """
    allowed = grammar.tokens[state.state]  # [B, C]
    scores = jnp.take_along_axis(logits, jnp.maximum(allowed, 0), axis=1)
    choice = jnp.argmax(jnp.where(allowed >= 0, scores, -jnp.inf), axis=1)[:, None]
    going = grammar.answer[state.state, 0] == -2
    return DecodeState(
        state=jnp.where(going, jnp.take_along_axis(grammar.next[state.state], choice, axis=1)[:, 0], state.state),
        token=jnp.take_along_axis(allowed, choice, axis=1)[:, 0],
        entropy_sum=state.entropy_sum + jnp.where(going, token_entropy(logits), 0.0),
        length=state.length + going,
    )
