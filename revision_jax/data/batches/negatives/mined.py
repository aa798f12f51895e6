"""Strategy `mined`: windows in which an earlier run saw the event where it is not."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches.frame_grid import FrameGrid
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.sampling import Clip
from revision_jax.data.batches.strategy import Strategy, StrategyContext
from revision_jax.text import read_jsonl


class Mined(Strategy):
    """Draws windows around the middles of wrong answers, the most confident ones first.

    Args:
      grid: the split's frames.
      answers: query id -> the moments (start_s, end_s, confidence) that it gave, best first (`read_answers`).
      otherwise: draws for queries without wrong answers.
    """

    name = "mined"
    needs_answers = True

    def __init__(self, grid: FrameGrid, answers: Mapping[str, Sequence[Sequence[float]]], otherwise: Random):
        self.grid, self.answers, self.otherwise = grid, answers, otherwise
        self._times: dict[str, np.ndarray] = {}

    @classmethod
    def make(cls, context: StrategyContext) -> Self:
        return cls(context.grid, read_answers(context.answers), Random.make(context))

    def times(self, query: Query) -> np.ndarray:
        """Times `[k]` s around which windows are drawn; computed at the first draw of a query."""
        if query.query_id not in self._times:
            middles = np.array([(start + end) / 2 for start, end, *_ in self.answers.get(query.query_id, ())])
            if len(middles):
                times, _ = self.grid.frames(query.video_id)
                nearest = np.abs(times[:, None] - middles[None]).argmin(axis=0)
                middles = middles[self.grid.allowed(query)[nearest]]
            self._times[query.query_id] = self.grid.best_apart(middles)
        return self._times[query.query_id]

    def draw(self, query: Query, rng: np.random.Generator, near_miss_fraction: float) -> Clip:
        clip = self.grid.draw_around(self.times(query), query, rng)
        return clip or self.otherwise.draw(query, rng, near_miss_fraction)


def read_answers(path: str | os.PathLike) -> dict[str, list]:
    """Query id -> moments, from a jsonl of `{"query_id", "moments"}` or from `predictions.jsonl` of an evaluation.

    Of an evaluation the answers of the exhaustive search (`depth1`) are taken.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the predictions of an earlier run (data.mined)")
    own = lambda row: "query_id" in row and row.get("method", "depth1") == "depth1"
    try:
        return {row["query_id"]: _moments(row) for row in read_jsonl(path) if own(row)}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        expected = 'lines {"query_id": text, "moments": [[start_s, end_s, confidence]]}'
        raise ValueError(f"{path}: {error}; expected {expected}, as an evaluation writes them (data.mined)") from error


def _moments(row: Mapping) -> list:
    """The moments of a row, best first."""
    moments = [list(map(float, moment)) for moment in row["moments"]]
    if not all(len(moment) >= 2 and np.isfinite(moment).all() for moment in moments):
        raise ValueError(f"the moments of {row['query_id']!r} are {moments!r:.80}")
    return moments
