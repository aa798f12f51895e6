"""The methods that are compared, all as one function: `ask(store, video_id, queries) -> (predictions, cost)`."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from revision_jax.data.extraction import Extractor
from revision_jax.data.features import FeatureStore
from revision_jax.data.moments import Query
from revision_jax.data.query_tokens import QueryTokens
from revision_jax.evaluation.predictions import Prediction, PredictionLog
from revision_jax.metrics.cost import Cost
from revision_jax.metrics.recall import holds_event
from revision_jax.prompts import AnswerGrammar, dense_answers
from revision_jax.search.clip_baseline import Case, ClipRetrieval, choose_variant
from revision_jax.search.evaluator import Result, Searcher, SearchSettings
from revision_jax.search.policies import POLICIES
from revision_jax.training.datasets import open_split
from revision_jax.training.parts import make_hierarchy, make_prompt_encoder

Answers = tuple[list[Prediction], Cost]
Ask = Callable[[FeatureStore, str, Sequence[Query]], Answers]
Encode = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
NOTHING = np.zeros((0, 3))


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


def make_searcher(config: ConfigDict, grounder, mesh, queries: Iterable[Query] = (), upper=None) -> Searcher:
    """The search as a run's config has it; one question length for all `queries`, so that it compiles once.

    `upper` is the grounder of the upper levels, if there are any: with `data.groups` of videos, of retrieval.
    """
    hierarchy, prompts = make_hierarchy(config), make_prompt_encoder(config)
    level = "retrieval" if config.data.groups == "videos" else "group"
    grammar = AnswerGrammar.compile(prompts, dense_answers(hierarchy.num_frames))
    settings = SearchSettings(**config.search)
    searcher = Searcher(grounder, prompts, grammar, hierarchy, settings, mesh, upper=upper, upper_question=level)
    sound = [query.sentence for query in queries if _fault(searcher, query) is None]
    if sound:
        searcher.fit_questions(sound)
    return searcher


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


def search_at(searcher: Searcher, depth: int, policy: str = "top_down", encode: Encode | None = None) -> Ask:
    """The model at a search depth. A query that cannot be asked is a miss, never a query fewer.

    `encode` gives the sentences' token features; depths from 2 on need it.
    """

    def ask(store, video_id, queries):
        faults = [_fault(searcher, query) for query in queries]
        sentences = [query.sentence for query, fault in zip(queries, faults) if fault is None]
        features, info = store.read_all(video_id), store.manifest.videos[video_id]
        encoded = encode(sentences) if encode and sentences else None
        results = searcher.search(
            features, store.manifest.fps, info.duration_s, sentences, depth=depth, policy=policy, query_tokens=encoded
        )
        results = iter(results)
        predictions = [
            Prediction(query.query_id, NOTHING, fault) if fault else _prediction(query, next(results))
            for query, fault in zip(queries, faults)
        ]
        return predictions, searcher.cost

    return ask


def search_deeper(searcher: Searcher, extractor: Extractor, config: ConfigDict) -> dict[str, Ask]:
    """Every search through upper levels, by both policies: method -> ask."""
    encode = lambda sentences: query_tokens(extractor, sentences, config.prompt.query_tokens)
    return {
        f"depth{depth}" + ("" if policy == POLICIES[0] else f"_{policy}"): search_at(searcher, depth, policy, encode)
        for depth in range(2, searcher.max_depth + 1)
        for policy in POLICIES
    }


def _prediction(query: Query, result: Result) -> Prediction:
    held = tuple(holds_event(windows, query.moments) for windows in result.sent) if query.present else ()
    return Prediction(query.query_id, result.moments, held=held)


def retrieve(retrieval: ClipRetrieval, extractor: Extractor) -> Ask:
    """The CLIP baseline."""

    def ask(store, video_id, queries):
        started = time.perf_counter()
        features, info = store.read_all(video_id), store.manifest.videos[video_id]
        sentences = [query.sentence for query in queries]
        asked = extractor.encode_queries(sentences)
        results = retrieval.search(features, store.manifest.fps, info.duration_s, sentences, asked)
        cost = Cost(videos=1, queries=len(queries), seconds=time.perf_counter() - started)
        return [Prediction(q.query_id, result.moments) for q, result in zip(queries, results)], cost

    return ask


def choose_retrieval(val: Split, extractor: Extractor, *, top_k: int, nms_iou: float) -> ClipRetrieval:
    """The best variant of the CLIP baseline on the validation split."""
    manifest = val.store.manifest
    cases = [
        Case(
            val.store.read_all(video_id), manifest.fps, manifest.videos[video_id].duration_s,
            extractor.encode_queries([q.sentence for q in queries]), [q.moments for q in queries],
        )
        for video_id, queries in val.queries.items()
    ]  # fmt: skip
    return choose_variant(cases, top_k=top_k, nms_iou=nms_iou)


def answer(split: Split, methods: Mapping[str, Ask], log: PredictionLog, progress: Callable = lambda *_: None) -> dict:
    """Method -> (predictions in the order of `split.all_queries`, cost); what the log holds is not done again.

    Args:
      progress: called as (method, videos done, videos in all).
    """
    answers = {name: ([], Cost()) for name in methods}
    for done, (video_id, queries) in enumerate(split.queries.items(), 1):
        for name, ask in methods.items():
            if log.get(name, video_id) is None:
                log.append(name, queries, *ask(split.store, video_id, queries))
                progress(name, done, len(split.queries))
            predictions, cost = log.get(name, video_id)
            answers[name] = answers[name][0] + predictions, answers[name][1] + cost
    return answers
