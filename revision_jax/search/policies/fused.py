"""As `top_down_rescaled`, but dense windows are chosen by the upper levels' scores and CLIP's similarity together."""

import dataclasses

import jax
import numpy as np

from revision_jax.search.levels.similarity import fuse_ranks
from revision_jax.search.policy import Policy, kept_counts, rescaled
from revision_jax.search.settings import SearchSettings


@dataclasses.dataclass(frozen=True)
class Fused(Policy):
    """Ranks dense windows by reciprocal rank fusion of both scores; the upper levels' change the confidence of answers.

    Attributes:
      keep: what each of the L levels sends down, coarse first; see `policy.kept`.
      power: a confidence is multiplied by the upper levels' likelihood of its window to this power.
    """

    keep: tuple[float, ...]
    power: float
    name = "fused"
    needs_similarity = True
    compared = "deepest"
    counted = ("keep",)

    @classmethod
    def make(cls, settings: SearchSettings, levels: int) -> "Fused":
        return cls(settings.keep[-levels:], settings.rescale)

    def counts(self, upper: int, dense: int) -> np.ndarray:
        return kept_counts(self.keep, upper, dense)

    def dense_scores(self, scores: jax.Array | None, similarity: jax.Array | None) -> jax.Array:
        return fuse_ranks(scores, similarity)

    def rescale(self, confidence: jax.Array, scores: jax.Array | None) -> jax.Array:
        return rescaled(confidence, scores, self.power)
