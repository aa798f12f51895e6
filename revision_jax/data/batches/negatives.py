"""Where contrastive windows come from: strategies, each a small class, and their mixtures by weight.

A strategy draws a window in which the query's event does not happen. False negatives are guarded: `guarded` makes every
annotated occurrence of a sentence in a video count, also those of other queries that say the same, and strategies that
look for windows like the event leave out frames that look the same as it (`LOOK_ALIKE`): they may be another
occurrence that nobody annotated. Where a strategy finds nothing it draws at random.

Letters: N frames of a video, n frames of its grid, D feature width.
"""

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches import sampling
from revision_jax.data.batches.sampling import Clip
from revision_jax.data.store.features import FeatureStore
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import normalize_event

GRID = 32  # frames of a window that are compared with a sentence: enough to meet an event of a few seconds
TOP = 8  # the best places of a video, at least half a window apart, among which `hard` and `mined` choose
LOOK_ALIKE = 0.97  # cosine to the event's own frames above which a frame may show the event
Encode = Callable[[Sequence[str]], np.ndarray]


def guarded(queries: Sequence[Query]) -> dict[str, Query]:
    """Query id -> the query with the moments of all queries about its video that say the same."""
    spans = collections.defaultdict(set)
    key = lambda query: (query.video_id, normalize_event(query.sentence))
    for query in queries:
        spans[key(query)].update(query.moments)
    occurrences = {key: tuple(sorted(found)) for key, found in spans.items()}
    return {
        query.query_id: query
        if len(occurrences[key(query)]) == len(set(query.moments))
        else dataclasses.replace(query, moments=occurrences[key(query)])
        for query in queries
    }


class Strategy(Protocol):
    """A window without the event of a query whose moments are all of its occurrences (`guarded`)."""

    def draw(self, query: Query, rng: np.random.Generator) -> Clip: ...


@dataclasses.dataclass(frozen=True)
class Random:
    """The paper's: uniform over the video's windows that touch no occurrence; `near_miss_fraction` of them, where the
    query has near misses, with one in view.
    """

    hierarchy: Hierarchy
    durations: Mapping[str, float]
    near_miss_fraction: float = 0.0

    def draw(self, query: Query, rng: np.random.Generator) -> Clip:
        duration_s = self.durations[query.video_id]
        return sampling.contrastive(query, rng, self.hierarchy, duration_s, self.near_miss_fraction)


class Frames:
    """A video's frames on a grid, as unit vectors, kept once read: what strategies compare."""

    def __init__(self, store: FeatureStore, hierarchy: Hierarchy):
        self.store, self.hierarchy = store, hierarchy
        self.step = max(1, int(hierarchy.window_s / GRID * store.manifest.fps))  # stored frames
        self._grids: dict[str, np.ndarray] = {}

    def grid(self, video_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Times `[n]` s and unit features `[n, D]` float16."""
        frames = np.arange(0, self.store.manifest.videos[video_id].num_frames, self.step)
        if video_id not in self._grids:
            self._grids[video_id] = _unit(self.store.read(video_id, frames)).astype(np.float16)
        return frames / self.store.manifest.fps, self._grids[video_id]

    def allowed(self, query: Query) -> np.ndarray:
        """`[n]` bool: a window can hold this time and touch no occurrence, and its frame does not look like one."""
        times, unit = self.grid(query.video_id)
        window_s, duration_s = self.hierarchy.window_s, self.store.durations[query.video_id]
        held = np.zeros(len(times), bool)
        for low, high in sampling.free_starts(query, window_s, duration_s):
            held |= (times >= low) & (times <= high + window_s)
        for start, end in query.moments:
            inside = np.arange(int(start * self.store.manifest.fps), int(end * self.store.manifest.fps) + 1)
            last = self.store.manifest.videos[query.video_id].num_frames - 1
            event = _unit(self.store.read(query.video_id, np.minimum(inside, last)))
            held &= (unit.astype(np.float32) @ event.T).max(axis=1) < LOOK_ALIKE
        return held

    def around(self, query: Query, time_s: float, rng: np.random.Generator) -> Clip | None:
        """A window that holds a time and touches no occurrence, uniform over all such; None if there is none."""
        starts = sampling.free_starts(query, self.hierarchy.window_s, self.store.durations[query.video_id])
        held = sampling.holding(starts, (time_s, time_s), self.hierarchy.window_s)
        return Clip(query.query_id, query.video_id, sampling.uniform(held, rng), None) if held else None


class Similar:
    """Windows whose frames CLIP takes for the query: `hard` the most similar ones, `semi_hard` those of a band.

    Args:
      frames: of the store.
      holistic: sentence -> its feature `[D]`.
      band: (low, high) quantiles of the similarity over the video outside the event; None = the `TOP` places.
      otherwise: draws where nothing is found.
    """

    def __init__(
        self, frames: Frames, holistic: Mapping[str, np.ndarray], band: tuple[float, float] | None, otherwise: Strategy
    ):
        self.frames, self.holistic, self.band, self.otherwise = frames, holistic, band, otherwise
        self._places: dict[str, np.ndarray] = {}

    def places(self, query: Query) -> np.ndarray:
        """Times `[k]` s around which windows are drawn; computed at the first draw of a query."""
        if query.query_id not in self._places:
            times, unit = self.frames.grid(query.video_id)
            scores = unit.astype(np.float32) @ _unit(self.holistic[query.sentence][None])[0]
            allowed = self.frames.allowed(query)
            self._places[query.query_id] = self._choose(times, scores, allowed).astype(np.float32)
        return self._places[query.query_id]

    def _choose(self, times: np.ndarray, scores: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        if not allowed.any():
            return times[:0]
        if self.band is None:
            order = np.argsort(-scores, kind="stable")
            return spread(times[order[allowed[order]]], self.frames.hierarchy.window_s / 2)
        low, high = np.quantile(scores[allowed], self.band)
        return times[allowed & (scores >= low) & (scores <= high)]

    def draw(self, query: Query, rng: np.random.Generator) -> Clip:
        return _draw_around(self.frames, self.places(query), query, rng) or self.otherwise.draw(query, rng)


class Mined:
    """Windows in which an earlier checkpoint saw the event where it is not, the surest ones first.

    Args:
      answers: query id -> the moments (start_s, end_s, confidence) it gave, best first (`read_answers`).
    """

    def __init__(self, frames: Frames, answers: Mapping[str, Sequence[Sequence[float]]], otherwise: Strategy):
        self.frames, self.answers, self.otherwise = frames, answers, otherwise
        self._places: dict[str, np.ndarray] = {}

    def places(self, query: Query) -> np.ndarray:
        """Times `[k]` s: the middles of its wrong answers."""
        if query.query_id not in self._places:
            middles = np.array([(start + end) / 2 for start, end, *_ in self.answers.get(query.query_id, ())])
            times, _ = self.frames.grid(query.video_id)
            nearest = np.abs(times[:, None] - middles[None]).argmin(axis=0) if len(middles) else np.zeros(0, int)
            middles = middles[self.frames.allowed(query)[nearest]] if len(middles) else middles
            self._places[query.query_id] = spread(middles, self.frames.hierarchy.window_s / 2)
        return self._places[query.query_id]

    def draw(self, query: Query, rng: np.random.Generator) -> Clip:
        return _draw_around(self.frames, self.places(query), query, rng) or self.otherwise.draw(query, rng)


class CrossVideo:
    """Any window of any other video of which no query says the same."""

    def __init__(
        self, queries: Sequence[Query], hierarchy: Hierarchy, durations: Mapping[str, float], otherwise: Strategy
    ):
        self.hierarchy, self.durations, self.otherwise = hierarchy, durations, otherwise
        self.video_ids = list(durations)
        self._saying = collections.defaultdict(set)
        for query in queries:
            if query.present:
                self._saying[normalize_event(query.sentence)].add(query.video_id)

    def draw(self, query: Query, rng: np.random.Generator) -> Clip:
        shown = self._saying[normalize_event(query.sentence)] | {query.video_id}
        if len(shown) == len(self.video_ids):
            return self.otherwise.draw(query, rng)
        while (video_id := self.video_ids[rng.integers(len(self.video_ids))]) in shown:
            pass  # few videos say the same: a second draw is rare
        last = max(0.0, self.durations[video_id] - self.hierarchy.window_s)
        return Clip(query.query_id, video_id, float(rng.uniform(0.0, last)), None)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """One of several strategies at random, by weight."""

    strategies: Sequence[Strategy]
    weights: Sequence[float]

    def draw(self, query: Query, rng: np.random.Generator) -> Clip:
        shares = np.asarray(self.weights, float) / sum(self.weights)
        return self.strategies[rng.choice(len(shares), p=shares)].draw(query, rng)


def make_strategy(
    names: Sequence[tuple[str, float]],
    store: FeatureStore,
    queries: Sequence[Query],
    hierarchy: Hierarchy,
    *,
    near_miss_fraction: float = 0.0,
    encode: Encode | None = None,
    answers: str | os.PathLike = "",
) -> Strategy:
    """A strategy, or a mixture of several.

    Args:
      names: (random, hard, semi_hard, cross_video or mined; weight) of each.
      near_miss_fraction: of `random`'s windows, with a near miss in view.
      encode: sentences -> holistic features `[Q, D]`; `hard` and `semi_hard` need it.
      answers: predictions of an earlier run on these queries; `mined` needs them.
    """
    simple, frames = Random(hierarchy, store.durations, near_miss_fraction), Frames(store, hierarchy)
    sentences = list(dict.fromkeys(query.sentence for query in queries))
    holistic: dict[str, np.ndarray] = {}
    if any(name in ("hard", "semi_hard") for name, _ in names):
        holistic = dict(zip(sentences, encode(sentences), strict=True))
    make = {
        "random": lambda: simple,
        "hard": lambda: Similar(frames, holistic, None, simple),
        "semi_hard": lambda: Similar(frames, holistic, (0.7, 0.95), simple),
        "cross_video": lambda: CrossVideo(queries, hierarchy, store.durations, simple),
        "mined": lambda: Mined(frames, read_answers(answers), simple),
    }
    strategies = [make[name]() for name, _ in names]
    return strategies[0] if len(names) == 1 else Mixture(strategies, [weight for _, weight in names])


def read_answers(path: str | os.PathLike) -> dict[str, list]:
    """Query id -> moments, from a jsonl of `{"query_id", "moments"}`, or `predictions.jsonl` of an evaluation, of which
    the answers of the search through all windows are taken.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected the predictions of an earlier run (data.mined)")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    own = lambda row: "query_id" in row and row.get("method", "depth1") == "depth1"
    return {row["query_id"]: row["moments"] for row in rows if own(row)}


def spread(times: np.ndarray, apart_s: float) -> np.ndarray:
    """The first `TOP` of times in their order, each at least `apart_s` from those before it."""
    kept: list[float] = []
    for time_s in times:
        if len(kept) == TOP:
            break
        if all(abs(time_s - other) >= apart_s for other in kept):
            kept.append(float(time_s))
    return np.array(kept)


def _draw_around(frames: Frames, places: np.ndarray, query: Query, rng: np.random.Generator) -> Clip | None:
    return frames.around(query, float(places[rng.integers(len(places))]), rng) if len(places) else None


def _unit(features: np.ndarray) -> np.ndarray:
    """Rows `[n, D]` as float32 of length 1."""
    features = features.astype(np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-6)
