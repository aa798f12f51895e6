"""Which windows go down: from the answers of groups to scores of windows, and from scores to the best windows.

Letters: R groups, n windows of a group, U upper windows, W dense windows, P parents of a dense window, Q queries,
V vocabulary; of the tree: M inner nodes, C choices of a node.

An answer `From a to b.` names one interval, but a search that keeps half of the windows must rank all of them. So
the whole distribution of `a` is read off the model, at no more cost than one token: the first numbers form a small
tree of tokens, whose inner nodes are all fed at once. A window of a group scores
`log P(the interval covers it) + log(confidence of the answer)`: the first term compares the windows of a group,
the second one groups. The interval's length is the greedy answer's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.parallel.rules import unsplit
from revision_jax.prompts import AnswerGrammar

_LEAST = 1e-12  # probabilities and confidences below it are alike


class NumberTree(NamedTuple):
    """The part of a `prompts.AnswerGrammar` that settles the first number of an answer.

    An inner node is a state behind which several first numbers are possible; the root is not counted.

    Attributes:
      tokens: `[M]` int32, the token that leads to an inner node; parents come before their children.
      depth: `[M]` int32, tokens from the root.
      sees: `[M, M]` bool, True from a node to itself and to those on its way.
      came: `[M, 2]` int32, (node, choice) from which an inner node is reached; node 0 is the root.
      choices: `[1 + M, C]` int32, the tokens allowed at the root and the inner nodes, padded with -1.
      number: `[1 + M, C]` int32, the first number that a choice settles; -1 where it settles none.
    """

    tokens: np.ndarray
    depth: np.ndarray
    sees: np.ndarray
    came: np.ndarray
    choices: np.ndarray
    number: np.ndarray

    @classmethod
    def of(cls, grammar: AnswerGrammar) -> "NumberTree":
        """The tree of a grammar."""
        least, most = (grammar.answer[:, 0].copy() for _ in range(2))
        used = grammar.tokens >= 0
        for state in reversed(range(len(used))):  # children have larger numbers than their parents
            if not grammar.final[state]:
                below = grammar.next[state][used[state]]
                least[state], most[state] = least[below].min(), most[below].max()
        nodes, came, depth = [0], [(-1, -1)], [0]
        for node, state in enumerate(nodes):  # grows while it is walked
            for choice, (token, below) in enumerate(zip(grammar.tokens[state], grammar.next[state])):
                if token >= 0 and least[below] != most[below]:
                    nodes.append(below)
                    came.append((node, choice))
                    depth.append(depth[node] + 1)
        sees = np.eye(len(nodes), dtype=bool)
        for node, (parent, _) in enumerate(came[1:], 1):
            sees[node] |= sees[parent]
        choices, below = grammar.tokens[nodes], grammar.next[nodes]
        settled = (choices >= 0) & (least[below] == most[below])
        came = np.array(came[1:], np.int32).reshape(-1, 2)
        return cls(
            tokens=choices[came[:, 0], came[:, 1]],
            depth=np.array(depth[1:], np.int32),
            sees=sees[1:, 1:],
            came=came,
            choices=choices,
            number=np.where(settled, least[below], -1).astype(np.int32),
        )


def first_numbers(tree: NumberTree, logits: jax.Array, count: int) -> jax.Array:
    """The distribution of an answer's first number under the grammar.

    Args:
      logits: `[R, 1 + M, V]` float32, raw, after the root and after each inner node.
      count: numbers 0 .. count - 1.

    Returns:
      `[R, count]` float32. What the grammar allows beside numbers is missing from the sum.
    """
    choices, number = jnp.asarray(tree.choices), jnp.asarray(tree.number)
    scores = jnp.take_along_axis(unsplit(logits, 2), jnp.maximum(choices, 0)[None], axis=2)
    log_p = jax.nn.log_softmax(jnp.where(choices >= 0, scores, -jnp.inf))  # [R, 1 + M, C]
    arrival = log_p[:, tree.came[:, 0], tree.came[:, 1]]  # [R, M]
    # Not a product of matrices: -inf * 0 would be NaN.
    reached = jnp.sum(jnp.where(jnp.asarray(tree.sees), arrival[:, None, :], 0.0), axis=2)
    reached = jnp.pad(reached, ((0, 0), (1, 0)))
    p = jnp.exp(reached[:, :, None] + log_p).reshape(len(logits), -1)
    place = jnp.where(number >= 0, number, count).reshape(-1)
    return jnp.zeros((len(logits), count + 1)).at[:, place].add(p)[:, :count]


def window_scores(first: jax.Array, length: jax.Array, confidence: jax.Array) -> jax.Array:
    """How likely each window of a group holds the event, comparable between groups.

    Args:
      first: `[R, n]`, the distribution of the interval's first window.
      length: `[R]` int32, windows of the interval.
      confidence: `[R]`, of the group's answer.

    Returns:
      `[R, n]` float32, a logarithm.
    """
    window, start = jnp.arange(first.shape[1])[:, None], jnp.arange(first.shape[1])
    covers = (start <= window) & (start > window - length[:, None, None])  # [R, n, n]
    # A sum of products, not a difference of running sums: the ranks of unlikely windows count.
    covered = jnp.sum(covers * first[:, None, :], axis=2)
    return jnp.log(jnp.maximum(covered, _LEAST)) + jnp.log(jnp.maximum(confidence, _LEAST))[:, None]


def keep_best(scores: jax.Array, count: int | jax.Array) -> jax.Array:
    """The `count` best of each row: `[Q, U]` -> bool. Scores of -inf are never kept; of equal ones the earlier."""
    rank = jnp.argsort(jnp.argsort(-scores, axis=1, stable=True), axis=1)
    return (rank < count) & (scores > -jnp.inf)


def pass_down(scores: jax.Array, parents: jax.Array) -> jax.Array:
    """Scores of dense windows `[Q, W]`: the best of their parents `[W, P]` among upper windows `[Q, U]`."""
    return jnp.max(scores[:, parents], axis=2)
