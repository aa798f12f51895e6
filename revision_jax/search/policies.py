"""Which windows of a video a search looks at, and what the upper levels do: small frozen dataclasses.

Depth 0 is one pass over the whole video; depth 1 asks every dense window. From depth 2 on upper levels come first,
and one of two policies says what their scores are for. Both are built of the same pieces (`selection.py`).

Letters: Q queries, U upper windows, W dense windows, L upper levels.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.search.selection import keep_best


@dataclasses.dataclass(frozen=True)
class TopDown:
    """The default: a level sends its best windows to the next, the last one to the dense level.

    Attributes:
      keep: share of all windows that each of the L levels sends down, coarse first: of the upper windows, and in the
        end of the dense ones. So depths are compared at the same share of dense frames.
    """

    keep: tuple[float, ...]

    def counts(self, upper: int, dense: int) -> np.ndarray:
        """Windows that each level is shown, and the dense windows asked: `[L + 1]` int32."""
        shown = [upper, *(math.ceil(share * upper) for share in self.keep[:-1])]
        return np.array([*shown, math.ceil(self.keep[-1] * dense)], np.int32)

    def survivors(self, scores: jax.Array, shown: jax.Array, count) -> jax.Array:
        """The windows `[Q, U]` bool that the next level is shown, of those with finite scores."""
        return keep_best(scores, count)

    def rescale(self, confidence: jax.Array, scores: jax.Array) -> jax.Array:
        """Confidences `[Q, W]` of dense answers, given the upper levels' scores of their windows."""
        return confidence


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

    def counts(self, upper: int, dense: int) -> np.ndarray:
        return np.array([upper] * self.levels + [dense], np.int32)

    def survivors(self, scores: jax.Array, shown: jax.Array, count) -> jax.Array:
        return shown

    def rescale(self, confidence: jax.Array, scores: jax.Array) -> jax.Array:
        return confidence * jnp.exp(self.power * jnp.where(jnp.isfinite(scores), scores, 0.0))


POLICIES = ("top_down", "bottom_up")


def check_policy(name: str) -> None:
    """Raises ValueError for a policy that does not exist."""
    if name not in POLICIES:
        raise ValueError(f"search.policy is {name!r}; expected one of {POLICIES}.")
