"""The default policy: a level sends its best windows to the next, the last level sends them to the dense level."""

import dataclasses

import numpy as np

from revision_jax.search.policy import Policy, kept_counts
from revision_jax.search.settings import SearchSettings


@dataclasses.dataclass(frozen=True)
class TopDown(Policy):
    """Ranks answers by the dense level alone. Without upper levels (depths 0 and 1) every dense window is asked.

    Attributes:
      keep: what each of the L levels sends down, coarse first; see `policy.kept`.
    """

    keep: tuple[float, ...]
    name = "top_down"
    least_depth = 0
    compared = "every"
    counted = ("keep",)

    @classmethod
    def make(cls, settings: SearchSettings, levels: int) -> "TopDown":
        return cls(settings.keep[-levels:])

    def counts(self, upper: int, dense: int) -> np.ndarray:
        return kept_counts(self.keep, upper, dense)
