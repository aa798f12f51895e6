"""Which windows of a video a search looks at, and what chooses them: small frozen dataclasses.

Depth 0 is one pass over the whole video; depth 1 asks every dense window. From depth 2 on upper levels come first, and
a policy says what their scores are for. Similarity of CLIP features can choose dense windows instead of them, or
together with them. All are built of the same pieces (`selection.py`).

Letters: Q queries, U upper windows, W dense windows, L upper levels, K answers of a pair.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.search.selection import fuse_ranks, keep_best


def kept(keep: float, windows: int) -> int:
    """How many of so many windows are kept: a share of them up to 1, above it a number."""
    return min(math.ceil(keep * windows) if keep <= 1 else int(keep), windows)


@dataclasses.dataclass(frozen=True)
class TopDown:
    """The default: a level sends its best windows to the next, the last one to the dense level.

    Attributes:
      keep: what each of the L levels sends down, coarse first, as `kept` reads it: of the upper windows, and in the
        end of the dense ones. So depths are compared at the same share of dense frames.
      power: as `BottomUp`'s; 0, the paper's, ranks by the dense level alone. `top_down_rescaled` has another.
    """

    keep: tuple[float, ...]
    power: float = 0.0
    needs_similarity = False

    def counts(self, upper: int, dense: int) -> np.ndarray:
        """Windows that each level is shown, and the dense windows asked: `[L + 1]` int32."""
        shown = [upper, *(kept(keep, upper) for keep in self.keep[:-1])]
        return np.array([*shown, kept(self.keep[-1], dense)], np.int32)

    def survivors(self, scores: jax.Array, shown: jax.Array, count) -> jax.Array:
        """The windows `[Q, U]` bool that the next level is shown, of those with finite scores."""
        return keep_best(scores, count)

    def dense(self, scores: jax.Array | None, similarity: jax.Array | None) -> jax.Array:
        """Scores `[Q, W]` by which dense windows are chosen, from the upper levels' and CLIP's, -inf for none."""
        return scores

    def rescale(self, confidence: jax.Array, scores: jax.Array) -> jax.Array:
        """Confidences `[Q, W, K]` of dense answers, given the upper levels' scores `[Q, W]` of their windows."""
        return rescaled(confidence, scores, self.power)


@dataclasses.dataclass(frozen=True)
class BottomUp:
    """Variant I: every window is asked at every level, and upper scores rescale the confidence of dense answers.

    What the upper levels do not find likely sinks below the rest: it is filtered softly.

    Attributes:
      levels: L.
      power: an answer's confidence is multiplied by the upper levels' likelihood of its window to this power.
    """

    levels: int
    power: float
    needs_similarity = False

    def counts(self, upper: int, dense: int) -> np.ndarray:
        return np.array([upper] * self.levels + [dense], np.int32)

    def survivors(self, scores: jax.Array, shown: jax.Array, count) -> jax.Array:
        return shown

    def dense(self, scores: jax.Array | None, similarity: jax.Array | None) -> jax.Array:
        return jnp.zeros_like(scores)

    def rescale(self, confidence: jax.Array, scores: jax.Array) -> jax.Array:
        return rescaled(confidence, scores, self.power)


@dataclasses.dataclass(frozen=True)
class Fused(TopDown):
    """As `TopDown`, but the dense windows are those that upper levels and similarity together rank first."""

    needs_similarity = True

    def dense(self, scores: jax.Array | None, similarity: jax.Array | None) -> jax.Array:
        return jnp.where(jnp.isfinite(similarity), fuse_ranks(scores, similarity), -jnp.inf)


@dataclasses.dataclass(frozen=True)
class RetrieveThenGround:
    """CLIP similarity chooses the dense windows, the model grounds in them; there are no upper levels.

    Attributes:
      keep: of the dense windows, as `kept` reads it.
    """

    keep: float
    needs_similarity = True

    def counts(self, upper: int, dense: int) -> np.ndarray:
        return np.array([kept(self.keep, dense)], np.int32)

    def dense(self, scores: jax.Array | None, similarity: jax.Array | None) -> jax.Array:
        return similarity

    def rescale(self, confidence: jax.Array, scores: jax.Array | None) -> jax.Array:
        return confidence


def rescaled(confidence: jax.Array, scores: jax.Array, power: float) -> jax.Array:
    """Confidences `[Q, W, K]` times the likelihood of their windows to a power; `scores [Q, W]` are its logarithms."""
    return confidence * jnp.exp(power * jnp.where(jnp.isfinite(scores), scores, 0.0))[..., None]


POLICIES = ("top_down", "top_down_rescaled", "bottom_up", "fused", "retrieve_then_ground")


def check_policy(name: str) -> None:
    """Raises ValueError for a policy that does not exist."""
    if name not in POLICIES:
        raise ValueError(f"search.policy is {name!r}; expected one of {POLICIES}.")
