"""What a strategy for contrastive windows is, what it is made from, and mixtures of several by weight.

A strategy draws a window in which the query's event does not happen. Two things guard against false negatives:
`guarded` counts every annotated occurrence of a sentence in a video, also those of other queries that say the same; and
strategies that look for windows like the event leave out frames that look the same as it (`frame_grid.LOOK_ALIKE`),
since they may be an occurrence that nobody annotated. A strategy that finds no window draws one at random.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.annotations.table import QueryTable
from revision_jax.data.batches import sampling
from revision_jax.data.batches.frame_grid import FrameGrid
from revision_jax.data.batches.negatives import find_strategy
from revision_jax.data.batches.sampling import Clip
from revision_jax.data.batches.sentence_features import SentenceFeatures
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy

Encode = Callable[[Sequence[str]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class StrategyContext:
    """What strategies may be made from: a split, its queries, and what the run can offer beside them.

    encode: Q sentences -> their holistic features `[Q, D]` float32; None where there is no encoder.
    answers: file with the predictions of an earlier run on these queries; None where there is none.
    """

    store: FeatureStore
    queries: Sequence[Query]
    hierarchy: Hierarchy
    encode: Encode | None = None
    answers: Path | None = None

    @functools.cached_property
    def grid(self) -> FrameGrid:
        """The split's frames, shared by all strategies that compare them."""
        return FrameGrid(self.store, self.hierarchy)

    @functools.cached_property
    def holistic(self) -> SentenceFeatures:
        """Sentence -> its holistic feature `[D]`."""
        return SentenceFeatures(self.encode, (query.sentence for query in self.queries))


class Strategy(abc.ABC):
    """Draws contrastive windows; a subclass is one entry of `data.negatives`.

    name: as in `data.negatives`, and that of its file.
    needs_encoder, needs_answers: whether `StrategyContext.encode` or `.answers` must be given.
    for_groups: whether its windows may stand in a group: they must be of the query's own video.
    """

    name: ClassVar[str]
    needs_encoder: ClassVar[bool] = False
    needs_answers: ClassVar[bool] = False
    for_groups: ClassVar[bool] = True

    @classmethod
    @abc.abstractmethod
    def make(cls, context: StrategyContext) -> Self:
        """The strategy for one split."""

    def elsewhere(self, query: Query) -> bool:
        """Whether it can draw a window of another video than the query's."""
        del query
        return False

    @abc.abstractmethod
    def draw(self, query: Query, rng: np.random.Generator, near_miss_fraction: float) -> Clip:
        """A window without the event.

        Args:
          query: its moments are all occurrences of the event in the video (`guarded`).
          near_miss_fraction: probability that a window drawn at random holds a near miss, where the query has one.
        """


@dataclasses.dataclass(frozen=True)
class Mixture:
    """One of several strategies at random, by weight; of those with a window where the query's own video has none.

    hierarchy, durations: of the split, seconds by video id.
    """

    strategies: Sequence[Strategy]
    weights: Sequence[float]
    hierarchy: Hierarchy
    durations: Mapping[str, float]

    def elsewhere(self, query: Query) -> bool:
        """As `Strategy.elsewhere`."""
        return any(strategy.elsewhere(query) for strategy in self.strategies)

    def draw(self, query: Query, rng: np.random.Generator, near_miss_fraction: float) -> Clip:
        """As `Strategy.draw`."""
        weights = np.asarray(self.weights, float)
        if not sampling.free_starts(query, self.hierarchy.window_s, self.durations[query.video_id]):
            weights = weights * [strategy.elsewhere(query) for strategy in self.strategies]
        shares = weights / weights.sum()
        return self.strategies[rng.choice(len(shares), p=shares)].draw(query, rng, near_miss_fraction)


Negatives = Strategy | Mixture


def make_strategy(names: Sequence[tuple[str, float]], context: StrategyContext) -> Negatives:
    """A strategy, or a mixture of several.

    Args:
      names: (name, weight) of each, as `data.negatives`.

    Raises:
      ValueError: an unknown name, or the context lacks what a strategy needs.
    """
    strategies = []
    for name, _ in names:
        strategy = find_strategy(name)
        if strategy.needs_encoder and context.encode is None:
            raise ValueError(f"strategy {name!r} compares frames with sentences; expected an encoder of sentences")
        if strategy.needs_answers and context.answers is None:
            raise ValueError(f"strategy {name!r} needs the predictions of an earlier run (data.mined); none are given")
        strategies.append(strategy.make(context))
    return (
        strategies[0]
        if len(names) == 1
        else Mixture(strategies, [weight for _, weight in names], context.hierarchy, context.store.durations)
    )


class Guarded:
    """Query id -> the query with the moments of all queries about its video that say the same."""

    def __init__(self, queries: QueryTable):
        self.queries = queries

    def __getitem__(self, query_id: str) -> Query:
        return self.of(self.queries.number(query_id))

    def of(self, number: int) -> Query:
        """As by its id, of the query at a place of the table."""
        queries, query = self.queries, self.queries[number]
        if not queries.repeated[number]:
            return query
        same = queries.saying(query.sentence)
        same = same[queries.video[same] == queries.video[number]].tolist()
        occurrences = tuple(sorted({moment for other in same for moment in queries.moments[other]}))
        if len(occurrences) == len(set(query.moments)):
            return query
        return dataclasses.replace(query, moments=occurrences)


def guarded(queries: Iterable[Query]) -> Guarded:
    """See `Guarded`."""
    return Guarded(QueryTable.of(queries))
