"""The methods that are compared, all as one function: `ask(store, video_id, queries) -> (predictions, cost)`."""

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from revision_jax.config import ConfigError
from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches.query_tokens import QueryTokens
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.video.extraction import Extractor, VideoFeatures
from revision_jax.evaluation import hosts
from revision_jax.evaluation.predictions import Prediction, PredictionLog
from revision_jax.metrics.cost import Cost
from revision_jax.metrics.recall import holds_event
from revision_jax.parallel import multihost
from revision_jax.parallel.memory import GIB
from revision_jax.runs.grounder import make_hierarchy, make_prompt_encoder
from revision_jax.runs.splits import open_split
from revision_jax.search.clip_baseline import Case, ClipRetrieval, choose_variant
from revision_jax.search.models import Models
from revision_jax.search.packing.packer import SparseVectors
from revision_jax.search.packing.windows import VideoWindows, check_features
from revision_jax.search.policies import find_policy
from revision_jax.search.result import Result
from revision_jax.search.searcher import Searcher
from revision_jax.search.sentences import Sentences
from revision_jax.search.settings import SearchSettings

Answers = tuple[list[Prediction], Cost]
Ask = Callable[[FeatureStore, str, Sequence[Query]], Answers]
NOTHING = np.zeros((0, 3))
SHARED_BYTES = GIB  # of a device's memory, for sparse vectors that several searches share


@dataclasses.dataclass(frozen=True)
class Split:
    """A split's features, and its queries by video (videos without any are left out)."""

    name: str
    store: FeatureStore
    queries: Mapping[str, Sequence[Query]]

    @classmethod
    def open(cls, config: ConfigDict, directory: Path, name: str, width: int) -> "Split":
        """The split in `directory`, checked against the run; `width` is the adapter's D.

        Raises:
          ValueError: it has no queries.
        """
        store, queries = open_split(config, directory, width=width)
        by_video: dict[str, list[Query]] = {}
        for query in queries:
            by_video.setdefault(query.video_id, []).append(query)
        if not by_video:
            raise ValueError(f"the {name} split in {directory} has no queries; expected some to score.")
        return cls(name, store, by_video)

    @property
    def all_queries(self) -> list[Query]:
        """In the order in which they are answered."""
        return [query for queries in self.queries.values() for query in queries]


def make_searcher(
    config: ConfigDict, grounder, mesh, queries: Iterable[Query] = (), upper=None, *,
    changes: Mapping[str, Any] = MappingProxyType({}), memory_gib: float = 0.0,
) -> Searcher:  # fmt: skip
    """The search as a run's config has it; one question length for all `queries`, so that it compiles once.

    Args:
      upper: the grounder of the upper levels, if there are any: with `data.groups` of videos, of retrieval.
      changes: fields of `SearchSettings` that differ from the config.
      memory_gib: see `Searcher`.
    """
    hierarchy, prompts = make_hierarchy(config), make_prompt_encoder(config)
    level = "retrieval" if config.data.groups == "videos" else "group"
    settings = SearchSettings.of(config.search, **changes)
    searcher = Searcher(Models(grounder, upper, level), prompts, hierarchy, settings, mesh, memory_gib)
    sound = [query.sentence for query in queries if _fault(searcher, query) is None]
    return searcher.fitted_to(sound) if sound else searcher


def _fault(searcher: Searcher, query: Query) -> str | None:
    """Why a query cannot be asked, or None."""
    try:
        searcher.question(query.sentence)
    except ValueError as error:
        return str(error)
    return None


def query_tokens(extractor: Extractor, sentences: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    """What the sparse adapter sees of sentences: features `[Q, length, D]` float16, and their mask `[Q, length]`."""
    tokens = QueryTokens(extractor, sentences, length)
    rows = [tokens(sentence) for sentence in sentences]
    return np.stack([row["query"] for row in rows]), np.stack([row["query_mask"] for row in rows])


def shared_vectors(
    searcher: Searcher, video: VideoFeatures, windows: VideoWindows, sentences: Sentences
) -> SparseVectors | None:
    """The sparse vectors of sentences in a video; None where they are many: then each search makes its own."""
    if searcher.vector_bytes * len(sentences) * len(windows.upper) > SHARED_BYTES:
        return None
    return searcher.sparse_vectors(video, windows, sentences)


class SharedVectors:
    """The sparse vectors of the video asked last: methods that search it at several depths share them."""

    def __init__(self, searcher: Searcher):
        self.searcher = searcher
        self._key, self._last = None, None

    def __call__(self, name: str, video: VideoFeatures, sentences: Sentences) -> SparseVectors | None:
        """Those of some sentences in the video of this name, which must not be another video's."""
        key = name, tuple(sentences.texts)
        if key != self._key:
            windows = self.searcher.windows(video, self.searcher.max_depth)
            self._key, self._last = key, shared_vectors(self.searcher, video, windows, sentences)
        return self._last


def search_at(
    searcher: Searcher, depth: int, policy: str = "top_down", extractor: Extractor | None = None, query_length: int = 0,
    shared: SharedVectors | None = None,
) -> Ask:  # fmt: skip
    """The model at a search depth. A query that cannot be asked is a miss, never a query fewer.

    Args:
      extractor: gives the sentences' features, where depth, policy or ranking need them.
      query_length: token features of a sentence, for depths from 2 on.
      shared: what methods share at depths from 2 on; None: nothing.
    """
    compares = searcher.settings.ranking == "cosine" or find_policy(policy).needs_similarity

    def ask(store, video_id, queries):
        video = VideoFeatures(store.read_all(video_id), store.manifest.videos[video_id].duration_s, store.manifest.fps)
        faults = [_fault(searcher, query) for query in queries]
        try:
            check_features(video.features)
        except ValueError as error:
            faults = [f"video {video_id}: {error}"] * len(queries)
        texts = [query.sentence for query, fault in zip(queries, faults) if fault is None]
        if not texts:
            return [Prediction(query.query_id, NOTHING, fault) for query, fault in zip(queries, faults)], Cost(videos=1)
        tokens, mask = query_tokens(extractor, texts, query_length) if depth > 1 else (None, None)
        sentences = Sentences(texts, tokens, mask, extractor.encode_queries(texts) if compares else None)
        vectors = shared(f"{store.path} {video_id}", video, sentences) if shared and depth > 1 else None
        searched = searcher.search(video, sentences, depth=depth, policy=policy, vectors=vectors)
        results = iter(searched.results)
        predictions = [
            Prediction(query.query_id, NOTHING, fault) if fault else _prediction(query, next(results))
            for query, fault in zip(queries, faults)
        ]
        return predictions, searched.cost

    return ask


def known_methods(max_depth: int) -> dict[str, tuple[int, str]]:
    """Method -> (depth, policy) of every way to search with so many levels; those that are always compared first."""
    methods = {"depth1": (1, "top_down"), "depth0": (0, "top_down")}
    for depth in range(2, max_depth + 1):
        methods |= {f"depth{depth}": (depth, "top_down"), f"depth{depth}_bottom_up": (depth, "bottom_up")}
    if max_depth > 1:
        methods |= {f"depth{max_depth}_rescaled": (max_depth, "top_down_rescaled"), "fused": (max_depth, "fused")}
    return methods | {"retrieve_then_ground": (1, "retrieve_then_ground")}


def method(
    searcher: Searcher, name: str, retrieval: ClipRetrieval, extractor: Extractor, config: ConfigDict,
    shared: SharedVectors | None = None,
) -> Ask:  # fmt: skip
    """The function that answers queries by a method."""
    if name == "clip":
        return retrieve(retrieval, extractor)
    depth, policy = known_methods(searcher.max_depth)[name]
    return search_at(searcher, depth, policy, extractor, config.prompt.query_tokens, shared)


def chosen_methods(wanted: Sequence[str], max_depth: int) -> list[str]:
    """The methods to compare, those without upper levels first."""
    known = [*known_methods(max_depth), "clip"]
    strangers = [name for name in wanted if name not in known]
    if strangers:
        raise ConfigError(f"--methods names {', '.join(strangers)}; this run has {', '.join(known)}.")
    if wanted:
        return [name for name in known if name in wanted]
    return [name for name in known if max_depth > 1 or name != "retrieve_then_ground"]


def _prediction(query: Query, result: Result) -> Prediction:
    held = tuple(holds_event(windows, query.moments) for windows in result.sent) if query.present else ()
    return Prediction(query.query_id, result.moments, held=held)


def retrieve(retrieval: ClipRetrieval, extractor: Extractor) -> Ask:
    """The CLIP baseline."""

    def ask(store, video_id, queries):
        started = time.perf_counter()
        features, info = store.read_all(video_id), store.manifest.videos[video_id]
        texts = [query.sentence for query in queries]
        sentences = Sentences(texts, similar=extractor.encode_queries(texts))
        results = retrieval.search(VideoFeatures(features, info.duration_s, store.manifest.fps), sentences)
        cost = Cost(
            videos=1, queries=len(queries), seconds=time.perf_counter() - started, video_s=info.duration_s,
            stored_frames=len(features),
        )  # fmt: skip
        return [Prediction(q.query_id, result.moments) for q, result in zip(queries, results)], cost

    return ask


def choose_retrieval(val: Split, extractor: Extractor, *, top_k: int, nms_iou: float) -> ClipRetrieval:
    """The best variant of the CLIP baseline on the validation split."""
    manifest = val.store.manifest
    cases = [
        Case(
            VideoFeatures(val.store.read_all(video_id), manifest.videos[video_id].duration_s, manifest.fps),
            extractor.encode_queries([q.sentence for q in queries]), [q.moments for q in queries],
        )
        for video_id, queries in val.queries.items()
    ]  # fmt: skip
    return choose_variant(cases, top_k=top_k, nms_iou=nms_iou)


def answer(
    split: Split, methods: Mapping[str, Ask], path: Path, identity: str, progress: Callable = lambda *_: None
) -> dict:
    """Method -> (predictions in the order of `split.all_queries`, cost); what the log holds is not done again.

    Several hosts share the videos, each with its own log, and wait for each other before anything is gathered.

    Args:
      path: the log, `PredictionLog`; identity: what it belongs to.
      progress: called as (method, videos done, videos in all).
    """
    log = PredictionLog(hosts.log_path(path), identity, [path, *hosts.host_logs(path)])
    share = hosts.own_share(split.queries)
    for done, video_id in enumerate(share, 1):
        for name, ask in methods.items():
            if log.get(name, video_id) is None:
                queries = split.queries[video_id]
                log.append(name, queries, *ask(split.store, video_id, queries))
                progress(name, done, len(share))
    multihost.meet(f"answered {path.name}")
    log.read_others([path, *hosts.host_logs(path)])
    multihost.meet(f"read {path.name}")
    if hosts.is_first():
        log.merge(hosts.host_logs(path))
    return {name: _gathered(split, log, name) for name in methods}


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
