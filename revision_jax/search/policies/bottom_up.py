"""Variant I of the paper: every window is asked at every level; upper scores change the confidence of dense answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.search.policy import Policy, rescaled
from revision_jax.search.settings import SearchSettings


@dataclasses.dataclass(frozen=True)
class BottomUp(Policy):
    """Answers in windows that the upper levels find unlikely rank lower; no window is left out.

    Attributes:
      levels: L.
      power: a confidence is multiplied by the upper levels' likelihood of its window to this power.
    """

    levels: int
    power: float
    name = "bottom_up"
    compared = "every"

    @classmethod
    def make(cls, settings: SearchSettings, levels: int) -> "BottomUp":
        return cls(levels, settings.rescale)

    def counts(self, upper: int, dense: int) -> np.ndarray:
        return np.array([upper] * self.levels + [dense], np.int32)

    def survivors(self, scores: jax.Array, shown: jax.Array, count: jax.Array) -> jax.Array:
        return shown

    def dense_scores(self, scores: jax.Array | None, similarity: jax.Array | None) -> jax.Array:
        return jnp.zeros_like(scores)

    def rescale(self, confidence: jax.Array, scores: jax.Array | None) -> jax.Array:
        return rescaled(confidence, scores, self.power)
