"""Strategy `mined`: windows in which an earlier run saw the event where it is not."""

import logging
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Self

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches.frame_grid import FrameGrid
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.sampling import Clip
from revision_jax.data.batches.strategy import Strategy, StrategyContext
from revision_jax.logs import SEAL, is_sealed, left_out
from revision_jax.quoting import quoted
from revision_jax.text import read_jsonl

log = logging.getLogger(__name__)


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
        answers = read_answers(context.answers, context.queries, context.store.durations)
        if lacking := sum(query.query_id not in answers for query in context.queries):
            log.warning(
                "%s (data.mined) has no answer to %d of the %d queries of %s; their windows are drawn at random",
                context.answers, lacking, len(context.queries), context.store.path,
            )  # fmt: skip
        return cls(context.grid, answers, Random.make(context))

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


def read_answers(
    path: str | os.PathLike, queries: Iterable[Query], durations: Mapping[str, float]
) -> dict[str, list[list[float]]]:
    """Query id -> moments, from a jsonl of `{"query_id", "moments"}` or from `predictions.jsonl` of an evaluation.

    Of an evaluation the answers of the exhaustive search (`depth1`) are taken; those of a video whose lines are not
    what was written are left out and told. Answers to queries that are not among `queries` are passed over.

    Args:
      durations: seconds by video id.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a line is no answer, or an answer to another query of this id: of another video or sentence, or after
        the video's end.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the predictions of an earlier run (data.mined)")
    known, answers = {query.query_id: query for query in queries}, {}
    try:
        for row in _written(path):
            if query := known.get(row["query_id"]):
                answers[query.query_id] = _moments(row, query, durations[query.video_id])
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        expected = 'lines {"query_id": text, "moments": [[start_s, end_s, confidence]]}'
        raise ValueError(f"{path}: {error}; expected {expected}, as an evaluation writes them (data.mined)") from error
    return answers


def _written(path: pathlib.Path) -> list[dict]:
    """The rows of the exhaustive search, but for videos whose lines do not fit their checksum."""
    taken: list[dict] = []
    group: list[dict] = []  # since the last closing line
    rows = read_jsonl(path)
    for number, row in enumerate(rows, 1):
        if "query_id" in row:
            group.append(row)
        elif SEAL in row and not is_sealed(row, rows[0], group):
            left_out(path, number, f"the lines of {row.get('video_id')!r} above are not what was written")
            group = []
        else:
            taken, group = taken + group, []
    return [row for row in taken + group if row.get("method", "depth1") == "depth1"]


def _moments(row: Mapping, query: Query, duration_s: float) -> list[list[float]]:
    """The moments of a row, best first."""
    for name, own in (("video_id", query.video_id), ("sentence", query.sentence)):
        if row.get(name, own) != own:
            raise ValueError(f"{name} of {query.query_id!r} is {quoted(str(row[name]))}, here {quoted(own)}")
    moments = [list(map(float, moment)) for moment in row["moments"]]
    if not all(len(moment) >= 2 and np.isfinite(moment).all() for moment in moments):
        raise ValueError(f"the moments of {query.query_id!r} are {moments!r:.80}")
    if late := [end for _, end, *_ in moments if end > duration_s + 1.0]:
        raise ValueError(f"a moment of {query.query_id!r} ends at {late[0]:g} s, its video at {duration_s:g} s")
    return moments
