"""What the strategies `hard` and `semi_hard` share: windows are drawn around frames that resemble the sentence.

Letters: n frames of a video's grid, k chosen times, D feature width.
"""

import abc
from typing import Self

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches.frame_grid import FrameGrid, unit_rows
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.sampling import Clip
from revision_jax.data.batches.sentence_features import SentenceFeatures
from revision_jax.data.batches.strategy import Strategy, StrategyContext


class SimilarityStrategy(Strategy):
    """Draws windows around times that a subclass chooses by the similarity of frame and sentence.

    Args:
      grid: the split's frames.
      holistic: sentence -> its feature `[D]`.
      otherwise: draws where no time is left.
    """

    needs_encoder = True

    def __init__(self, grid: FrameGrid, holistic: SentenceFeatures, otherwise: Random):
        self.grid, self.holistic, self.otherwise = grid, holistic, otherwise
        self._times: dict[str, np.ndarray] = {}

    @classmethod
    def make(cls, context: StrategyContext) -> Self:
        return cls(context.grid, context.holistic, Random.make(context))

    @abc.abstractmethod
    def choose(self, times: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Times to draw around, `[k]` s.

        Args:
          times: `[n]` s, at least one; those at which the event is neither annotated nor likely.
          scores: `[n]` cosine of the frames at these times with the sentence.
        """

    def times(self, query: Query) -> np.ndarray:
        """Times `[k]` s around which windows are drawn; computed at the first draw of a query."""
        if query.query_id not in self._times:
            times, unit = self.grid.frames(query.video_id)
            scores = unit.astype(np.float32) @ unit_rows(self.holistic[query.sentence][None])[0]
            allowed = self.grid.allowed(query)
            chosen = self.choose(times[allowed], scores[allowed]) if allowed.any() else times[:0]
            self._times[query.query_id] = chosen.astype(np.float32)
        return self._times[query.query_id]

    def draw(self, query: Query, rng: np.random.Generator, near_miss_fraction: float) -> Clip:
        clip = self.grid.draw_around(self.times(query), query, rng)
        return clip or self.otherwise.draw(query, rng, near_miss_fraction)
