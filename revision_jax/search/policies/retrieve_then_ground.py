"""CLIP similarity chooses the dense windows, the model grounds in them; there are no upper levels."""

import dataclasses

import jax
import numpy as np

from revision_jax.search.policy import Policy, kept
from revision_jax.search.settings import SearchSettings


@dataclasses.dataclass(frozen=True)
class RetrieveThenGround(Policy):
    """Ranks dense windows by their similarity to the sentence.

    Attributes:
      keep: how many of the dense windows; see `policy.kept`.
    """

    keep: float
    name = "retrieve_then_ground"
    least_depth = most_depth = 1
    needs_similarity = True
    needs_upper = False
    compared = "deepest"
    counted = ("keep",)

    @classmethod
    def make(cls, settings: SearchSettings, levels: int) -> "RetrieveThenGround":
        return cls(settings.keep[-1])

    def counts(self, upper: int, dense: int) -> np.ndarray:
        return np.array([kept(self.keep, dense)], np.int32)

    def dense_scores(self, scores: jax.Array | None, similarity: jax.Array | None) -> jax.Array:
        return similarity
