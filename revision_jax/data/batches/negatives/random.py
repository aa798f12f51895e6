"""Strategy `random`, the paper's: any window of the query's video in which the event does not happen."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches import sampling
from revision_jax.data.batches.sampling import Clip
from revision_jax.data.batches.strategy import Strategy, StrategyContext
from revision_jax.hierarchy import Hierarchy


@dataclasses.dataclass(frozen=True)
class Random(Strategy):
    """Uniform over the windows of the query's video that touch no occurrence of the event.

    durations: seconds by video id.
    """

    name = "random"

    hierarchy: Hierarchy
    durations: Mapping[str, float]

    @classmethod
    def make(cls, context: StrategyContext) -> Self:
        return cls(context.hierarchy, context.store.durations)

    def draw(self, query: Query, rng: np.random.Generator, near_miss_fraction: float) -> Clip:
        duration_s = self.durations[query.video_id]
        return sampling.contrastive(query, rng, self.hierarchy, duration_s, near_miss_fraction)
