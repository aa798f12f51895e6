"""Asks the windows that `top_down` asks, and ranks answers as `bottom_up` does."""

import dataclasses

import jax
import numpy as np

from revision_jax.search.policy import Policy, kept_counts, rescaled
from revision_jax.search.settings import SearchSettings


@dataclasses.dataclass(frozen=True)
class TopDownRescaled(Policy):
    """Levels send their best windows down; their scores also change the confidence of answers.

    Attributes:
      keep: what each of the L levels sends down, coarse first; see `policy.kept`.
      power: a confidence is multiplied by the upper levels' likelihood of its window to this power.
    """

    keep: tuple[float, ...]
    power: float
    name = "top_down_rescaled"
    compared = "deepest"
    counted = ("keep",)

    @classmethod
    def make(cls, settings: SearchSettings, levels: int) -> "TopDownRescaled":
        return cls(settings.keep[-levels:], settings.rescale)

    def counts(self, upper: int, dense: int) -> np.ndarray:
        return kept_counts(self.keep, upper, dense)

    def rescale(self, confidence: jax.Array, scores: jax.Array | None) -> jax.Array:
        return rescaled(confidence, scores, self.power)
