"""CLIP similarity shortlists the windows that the upper levels read; then as `fused`.

Sparse vectors, one for every query and window, are nearly all the arithmetic of a search with many queries. Similarity
costs one product a frame.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.search.levels.selection import keep_best
from revision_jax.search.levels.similarity import fuse_ranks
from revision_jax.search.policy import Policy, kept, kept_counts, rescaled
from revision_jax.search.settings import SearchSettings


@dataclasses.dataclass(frozen=True)
class Cascade(Policy):
    """A shortlist by similarity, then the levels; dense windows and answers are ranked as `fused` does.

    Attributes:
      shortlist: how many of the upper windows the first level is shown; see `policy.kept`.
      keep: what each of the L levels sends down, coarse first; see `policy.kept`.
      power: a confidence is multiplied by the upper levels' likelihood of its window to this power.
    """

    shortlist: float
    keep: tuple[float, ...]
    power: float
    name = "cascade"
    needs_similarity = True
    shortlists = True
    compared = "deepest"
    counted = ("shortlist", "keep")

    @classmethod
    def make(cls, settings: SearchSettings, levels: int) -> "Cascade":
        return cls(settings.shortlist, settings.keep[-levels:], settings.rescale)

    def counts(self, upper: int, dense: int) -> np.ndarray:
        counts = kept_counts(self.keep, upper, dense)
        counts[:-1] = np.minimum(counts[:-1], kept(self.shortlist, upper))  # no level is shown more than the shortlist
        return counts

    def first_shown(self, windows: jax.Array, similarity: jax.Array | None, count: jax.Array) -> jax.Array:
        return keep_best(jnp.where(windows, similarity, -jnp.inf), count)

    def dense_scores(self, scores: jax.Array | None, similarity: jax.Array | None) -> jax.Array:
        return fuse_ranks(scores, similarity)

    def rescale(self, confidence: jax.Array, scores: jax.Array | None) -> jax.Array:
        return rescaled(confidence, scores, self.power)
