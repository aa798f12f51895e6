"""The methods that are compared, all as one function: `ask(store, video_id, queries) -> (predictions, cost)`."""

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from revision_jax.config import ConfigError
from revision_jax.data.annotations.queries import Query
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.video.extraction import Extractor, VideoFeatures
from revision_jax.evaluation import hosts
from revision_jax.evaluation.predictions import Prediction, PredictionLog
from revision_jax.evaluation.telling import told
from revision_jax.metrics.cost import Cost
from revision_jax.metrics.recall import holds_event
from revision_jax.parallel import multihost
from revision_jax.runs.run import Run
from revision_jax.runs.splits import Split
from revision_jax.search.clip_baseline import Case, ClipRetrieval, choose_variant
from revision_jax.search.method import compared_methods, known_methods
from revision_jax.search.packing.packer import Request
from revision_jax.search.packing.shared import NOTHING as NOTHING_SHARED
from revision_jax.search.packing.shared import SHARED_BYTES, Shared
from revision_jax.search.packing.windows import check_features
from revision_jax.search.plan import Plan
from revision_jax.search.policies import find_policy
from revision_jax.search.result import Result
from revision_jax.search.searcher import Searcher
from revision_jax.search.sentences import Sentences

Answers = tuple[list[Prediction], Cost]
Ask = Callable[[FeatureStore, str, Sequence[Query]], Answers]
CLIP = "clip"  # the method that compares CLIP features alone
SAMPLED_VIDEOS, SAMPLED_QUERIES = 200, 2000  # of the validation split, on which the variant of CLIP's method is chosen
NOTHING = np.zeros((0, 3))


def chosen_methods(wanted: Sequence[str], max_depth: int, served: str) -> list[str]:
    """The methods to compare, those without upper levels first.

    Args:
      wanted: names; empty takes what is compared by default, CLIP retrieval, and `served`.
      served: the method that the run's config searches by.

    Raises:
      ConfigError: a method that this run does not have.
    """
    known = [*known_methods(max_depth), CLIP]
    strangers = [name for name in wanted if name not in known]
    if strangers:
        raise ConfigError(f"--methods names {', '.join(strangers)}; this run has {', '.join(known)}.")
    wanted = wanted or [*compared_methods(max_depth), CLIP, served]
    return [name for name in known if name in wanted]


# ------------------------------------------------------------------------------------------------- questions
def with_fitted_questions(searcher: Searcher, queries: Iterable[Query]) -> Searcher:
    """The same search with one question length for all queries that can be asked, so that it compiles once."""
    sound = [query.sentence for query in queries if fault_of(searcher, query) is None]
    return searcher.fitted_to(sound) if sound else searcher


def fault_of(searcher: Searcher, query: Query) -> str | None:
    """Why a query cannot be asked, or None."""
    try:
        searcher.question(query.sentence)
    except ValueError as error:
        return str(error)
    return None


# ------------------------------------------------------------------------------------------------- what is shared
class SharedWork:
    """What the searches of the video asked last have in common, as far as any of them needed it.

    Args:
      searcher: makes it.
      parts: searches of some windows are so many that what they need is made of all windows at once.
    """

    def __init__(self, searcher: Searcher, parts: bool = False):
        self.searcher, self.parts = searcher, parts
        self._key: tuple | None = None
        self._shared = NOTHING_SHARED

    def __call__(self, name: str, video: VideoFeatures, sentences: Sentences, plan: Plan, measured: bool) -> Shared:
        """For a search of some sentences in the video of this name, which must not be another video's.

        Args:
          measured: its seconds are wanted, so it takes only what it takes whole.
        """
        key = name, tuple(sentences.texts)
        if key != self._key:
            self._key, self._shared = key, NOTHING_SHARED
        windows = self.searcher.windows(video, self.searcher.max_depth)
        request = Request(video, windows, sentences, self._shared)
        self._shared = self.searcher.share(request, plan, SHARED_BYTES, parts=self.parts and not measured)
        request = dataclasses.replace(request, shared=self._shared)
        return self.searcher.whole_of(request, plan) if measured else self._shared


# ------------------------------------------------------------------------------------------------- asking
@dataclasses.dataclass(frozen=True)
class Asking:
    """What the methods of one evaluation have in common.

    Attributes:
      run: gives the sentences' features.
      searcher: searches.
      retrieval: the CLIP baseline, chosen on val; None where it is not asked.
      shared: what searches have in common; None where one alone is asked.
      measured: methods whose seconds are told. Others take also parts of what was done for all, such as the answers of
        the windows that they choose.
    """

    run: Run
    searcher: Searcher
    retrieval: ClipRetrieval | None
    shared: SharedWork | None = None
    measured: frozenset[str] = frozenset()

    def method(self, name: str) -> Ask:
        """The function that answers queries by a method."""
        if name == CLIP:
            return retrieve(self.retrieval, self.run.extractor)
        return self.search(*known_methods(self.searcher.max_depth)[name], measured=name in self.measured)

    def search(self, depth: int, policy: str, *, measured: bool) -> Ask:
        """A search at a depth. A query that cannot be asked is a miss, never a query fewer."""

        def ask(store: FeatureStore, video_id: str, queries: Sequence[Query]) -> Answers:
            video = _video(store, video_id)
            faults = self._faults(video_id, video, queries)
            texts = [query.sentence for query, fault in zip(queries, faults) if fault is None]
            if not texts:
                missed = [Prediction(query.query_id, NOTHING, fault) for query, fault in zip(queries, faults)]
                return missed, Cost(videos=1)
            sentences = self.run.sentences(texts, depth, policy, similar=self.searcher.settings.compares)
            shared = NOTHING_SHARED
            if depth > 0 and self.shared is not None:  # one pass over the whole video has a window of its own
                plan = self.searcher.plan(depth, policy)
                shared = self.shared(f"{store.path} {video_id}", video, sentences, plan, measured)
            searched = self.searcher.search(video, sentences, depth=depth, policy=policy, shared=shared)
            results = iter(searched.results)
            predictions = [
                Prediction(query.query_id, NOTHING, fault) if fault else _prediction(query, next(results))
                for query, fault in zip(queries, faults)
            ]
            return predictions, searched.cost

        find_policy(policy).check_depth(depth)
        return ask

    def _faults(self, video_id: str, video: VideoFeatures, queries: Sequence[Query]) -> list[str | None]:
        """Why each query cannot be asked; all of them, where the video's features are broken."""
        try:
            check_features(video.features)
        except ValueError as error:
            return [f"video {video_id}: {error}"] * len(queries)
        return [fault_of(self.searcher, query) for query in queries]


def _video(store: FeatureStore, video_id: str) -> VideoFeatures:
    return VideoFeatures(store.read_all(video_id), store.manifest.videos[video_id].duration_s, store.manifest.fps)


def _prediction(query: Query, result: Result) -> Prediction:
    held = tuple(holds_event(windows, query.moments) for windows in result.sent) if query.present else ()
    return Prediction(query.query_id, result.moments, held=held)


# ------------------------------------------------------------------------------------------------- CLIP alone
def retrieve(retrieval: ClipRetrieval, extractor: Extractor) -> Ask:
    """The CLIP baseline."""

    def ask(store: FeatureStore, video_id: str, queries: Sequence[Query]) -> Answers:
        video, texts = _video(store, video_id), [query.sentence for query in queries]
        sentences = Sentences(texts, similar=extractor.encode_queries(texts))
        started = time.perf_counter()
        results = retrieval.search(video, sentences)
        cost = Cost(
            videos=1, queries=len(queries), seconds=time.perf_counter() - started, video_s=video.duration_s,
            stored_frames=len(video.features),
        )  # fmt: skip
        return [Prediction(q.query_id, result.moments) for q, result in zip(queries, results)], cost

    return ask


def choose_retrieval(val: Split, extractor: Extractor, *, top_k: int, nms_iou: float) -> ClipRetrieval:
    """The best variant of the CLIP baseline on a sample of the validation split, of which one video is in memory."""
    sample = sample_present(val.queries)
    cases = (
        Case(_video(val.store, video_id), extractor.encode_queries([q.sentence for q in some]),
             [q.moments for q in some])
        for video_id, some in sample.items()
    )  # fmt: skip
    return choose_variant(cases, top_k=top_k, nms_iou=nms_iou)


def sample_present(queries: Mapping[str, Sequence[Query]]) -> dict[str, list[Query]]:
    """Video id -> present queries: all, or evenly some of at most `SAMPLED_VIDEOS` videos, `SAMPLED_QUERIES` in all."""
    present = {video_id: [q for q in own if q.present] for video_id, own in queries.items()}
    present = {video_id: own for video_id, own in present.items() if own}
    videos = list(present)[:: -(-len(present) // SAMPLED_VIDEOS) or 1]
    if sum(len(present[video_id]) for video_id in videos) <= SAMPLED_QUERIES:
        return {video_id: present[video_id] for video_id in videos}
    each = SAMPLED_QUERIES // len(videos)
    return {video_id: present[video_id][:: -(-len(present[video_id]) // each)] for video_id in videos}


# ------------------------------------------------------------------------------------------------- a split
class Logged(NamedTuple):
    """Methods whose answers stand in one log.

    Attributes:
      methods: name -> the function that answers.
      path: the log, `PredictionLog`.
      identity: what it belongs to.
    """

    methods: Mapping[str, Ask]
    path: Path
    identity: str

    def open(self) -> PredictionLog:
        """The log of this host."""
        return PredictionLog(hosts.log_path(self.path), self.identity, [self.path, *hosts.host_logs(self.path)])


def answer(split: Split, groups: Sequence[Logged]) -> dict[str, Answers]:
    """Method -> (predictions in the order of `split.all_queries`, cost); what the logs hold is not done again.

    A video is asked by all methods before the next, so that they can share. Several hosts share the videos, each with
    its own logs, and wait for each other before anything is gathered.
    """
    logs = [group.open() for group in groups]
    pairs = [(name, ask, log) for group, log in zip(groups, logs) for name, ask in group.methods.items()]
    share = hosts.own_share(split.queries)
    todo = [(video, *pair) for video in share for pair in pairs if pair[2].get(pair[0], video) is None]
    for video_id, name, ask, log in told(todo, split.name, lambda item: f"{item[1]}, {item[0]}"):
        queries = split.queries[video_id]
        log.append(name, queries, *ask(split.store, video_id, queries))
        multihost.advance(f"{split.name}: {name}, {video_id}")
    names = ", ".join(group.path.name for group in groups)
    multihost.meet_patiently(f"answered {names}")  # films differ in length, and so do the hosts' shares
    for group, log in zip(groups, logs):
        log.read_others([group.path, *hosts.host_logs(group.path)])
    multihost.meet(f"read {names}")
    if multihost.is_first():
        for group, log in zip(groups, logs):
            log.merge(hosts.host_logs(group.path))
    return {name: _gathered(split, log, name) for name, _, log in pairs}


def _gathered(split: Split, log: PredictionLog, method: str) -> Answers:
    """All predictions of a method.

    Raises:
      ValueError: a video is missing; part of a run is never scored as a whole.
    """
    missing = [video_id for video_id in split.queries if log.get(method, video_id) is None]
    if missing:
        raise ValueError(
            f"{method}: {len(missing)} of {len(split.queries)} videos were not answered, first {missing[0]!r}; do all "
            f"hosts write into one folder? Run the same command again to go on."
        )
    groups = [log.get(method, video_id) for video_id in split.queries]
    predictions = [prediction for rows, _ in groups for prediction in rows]
    return predictions, functools.reduce(operator.add, (cost for _, cost in groups), Cost())
