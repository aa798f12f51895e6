"""As `top_down`, but dense windows are chosen by the upper levels' scores and CLIP's similarity together."""

import dataclasses

import jax
import numpy as np

from revision_jax.search.levels.similarity import fuse_ranks
from revision_jax.search.policy import Policy, kept_counts
from revision_jax.search.settings import SearchSettings


@dataclasses.dataclass(frozen=True)
class Fused(Policy):
    """Ranks dense windows by reciprocal rank fusion of both scores.

    Attributes:
      keep: what each of the L levels sends down, coarse first; see `policy.kept`.
    """

    keep: tuple[float, ...]
    name = "fused"
    needs_similarity = True
    compared = "deepest"
    counted = ("keep",)

    @classmethod
    def make(cls, settings: SearchSettings, levels: int) -> "Fused":
        return cls(settings.keep[-levels:])

    def counts(self, upper: int, dense: int) -> np.ndarray:
        return kept_counts(self.keep, upper, dense)

    def dense_scores(self, scores: jax.Array | None, similarity: jax.Array | None) -> jax.Array:
        return fuse_ranks(scores, similarity)
