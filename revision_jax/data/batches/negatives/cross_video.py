"""Strategy `cross_video`: any window of another video of which no query says the same."""

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.annotations.table import QueryTable
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.sampling import Clip
from revision_jax.data.batches.strategy import Strategy, StrategyContext


class CrossVideo(Strategy):
    """Uniform over the other videos, and over the windows of the one drawn.

    Args:
      queries: all of the split.
      durations: seconds by video id.
      window_s: length of a window in seconds.
      otherwise: draws where every video shows the event.
    """

    name = "cross_video"
    for_groups = False

    def __init__(self, queries: Sequence[Query], durations: Mapping[str, float], window_s: float, otherwise: Random):
        self.durations, self.window_s, self.otherwise = durations, window_s, otherwise
        self.video_ids = list(durations)
        self.queries = QueryTable.of(queries)
        self._shown_most = int(self.queries.showing_counts.max(initial=0))

    @classmethod
    def make(cls, context: StrategyContext) -> Self:
        durations, window_s = context.store.durations, context.hierarchy.window_s
        return cls(context.queries, durations, window_s, Random.make(context))

    def _shown(self, query: Query) -> set[str]:
        """The query's video, and those in which a query says the same."""
        return {query.video_id, *self.queries.videos_showing(query.sentence)}

    def elsewhere(self, query: Query) -> bool:
        if self._shown_most + 1 < len(self.video_ids):
            return True
        shown = self._shown(query)
        return len(shown) < len(self.video_ids)

    def draw(self, query: Query, rng: np.random.Generator, near_miss_fraction: float) -> Clip:
        shown = self._shown(query)
        if len(shown) == len(self.video_ids):
            return self.otherwise.draw(query, rng, near_miss_fraction)
        while (video_id := self.video_ids[rng.integers(len(self.video_ids))]) in shown:
            pass  # few videos say the same: a second draw is rare
        last = max(0.0, self.durations[video_id] - self.window_s)
        return Clip(query.query_id, video_id, float(rng.uniform(0.0, last)), None)
