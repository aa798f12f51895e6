"""`Searcher`: a video's features and sentences in, ranked moments out; one program, compiled once a shape.

Shapes are rounded up to a few buckets (windows, frames, queries, question length), so that other videos and other
queries meet a program that is compiled already; the loops inside have dynamic bounds, so that rounding up costs
little time.
"""

import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from revision_jax.hierarchy import Hierarchy
from revision_jax.metrics.cost import Cost
from revision_jax.parallel.memory import held
from revision_jax.prompts import AnswerGrammar, group_answers, video_answers
from revision_jax.search.counting import Flops, count_cost
from revision_jax.search.decoding import Grammar
from revision_jax.search.dense_level import Questions
from revision_jax.search.layout import (
    VideoWindows,
    check_features,
    chosen_shape,
    common_start,
    pack_questions,
    pack_rows,
    pack_windows,
    pad_frames,
    required,
)
from revision_jax.search.memory import GIB, LLMSize, Need, Shape, device_memory_gib, fit, needed, sparse_work
from revision_jax.search.placing import signature, taken_apart
from revision_jax.search.planning import plan_search
from revision_jax.search.program import Found, Plan, VideoInputs, search_program, sent_down, vectors_program
from revision_jax.search.released import cosine_order
from revision_jax.search.result import Result
from revision_jax.search.selection import NumberTree
from revision_jax.search.settings import SearchSettings
from revision_jax.search.upper_levels import Level, UpperInputs

_PROBES = ("a dog runs", "the zebra", "7 people")  # questions about them share only what all questions share
UPPER_ANSWERS = {"group": group_answers, "retrieval": video_answers}


@dataclasses.dataclass(frozen=True)
class SparseVectors:
    """The sparse vectors of a video and some sentences, to be shared by searches at several depths.

    Attributes:
      array: `[Q, U, H]`, see `levels.py`.
      seconds: that it took to make them; a search that uses them counts them as its own.
    """

    array: jax.Array
    seconds: float


class Searcher:
    """Searches videos with one grounder, or with one for each end of the hierarchy.

    Args:
      grounder: `models.Grounder` with a dense adapter; only read.
      prompt_encoder: `prompts.PromptEncoder`.
      grammar: `prompts.AnswerGrammar` of `dense_answers(hierarchy.num_frames)`.
      hierarchy: the windows.
      settings: how to search.
      mesh: devices; the windows of a block, and the queries of upper levels, are divided over its `data` axis.
      upper: `models.Grounder` with a sparse adapter, for depths from 2 on.
      upper_question: what upper levels ask, a key of `UPPER_ANSWERS`.
      memory_gib: what a device may use; blocks are made smaller until a search fits. 0 takes the device's own memory
        where it tells, and does not check where it does not (CPU).

    Attributes:
      models: parameters of both grounders in their places; None for one that is not there.
      cost: `metrics.cost.Cost` of the last search.
      answers: `recursion.Answers` of the last search, token by token, on the device; its first Q rows, W columns.
      shapes: the distinct shapes searched so far; `compile_count` is their number, never more.
    """

    def __init__(
        self, grounder, prompt_encoder, grammar, hierarchy: Hierarchy, settings: SearchSettings | None = None,
        mesh: Mesh | None = None, *, upper=None, upper_question: str = "group", memory_gib: float = 0.0,
    ):  # fmt: skip
        self.prompt_encoder, self.hierarchy, self.mesh = prompt_encoder, hierarchy, mesh
        self.settings = settings or SearchSettings()
        self.upper_question = upper_question
        self.cost, self.answers = Cost(), None
        self.shapes: set[tuple] = set()
        self._shards = 1 if mesh is None else mesh.shape["data"]
        if self.settings.window_block % self._shards:
            raise ValueError(
                f"search.window_block is {self.settings.window_block}, the mesh has {self._shards} devices on its "
                f"data axis; expected a multiple, so that every device gets the same number of windows."
            )
        parts = [(None, None) if model is None else taken_apart(model, mesh) for model in (grounder, upper)]
        structures, self.models = zip(*parts)
        self.memory_gib = memory_gib or device_memory_gib(mesh)
        self._sizes = [LLMSize.of(model.llm) if hasattr(model, "sparse") else None for model in (grounder, upper)]
        self._sparse_bytes = sparse_work(upper, hierarchy.num_frames)
        self._flops = [Flops(model) for model in (grounder, upper)]
        groups = [] if upper is None else [
            AnswerGrammar.compile(prompt_encoder, UPPER_ANSWERS[upper_question](size)) for size in hierarchy.levels
        ]  # fmt: skip
        self._levels = [
            Level(size, NumberTree.of(answers), answers.max_length, settings.readings)
            for size, answers in zip(hierarchy.levels, groups)
        ]
        self._grammars = [Grammar.of(answers) for answers in groups]
        self._hidden = getattr(getattr(getattr(grounder, "llm", None), "config", None), "hidden_size", 0)
        self._prefix, self._grammar = jnp.asarray(prompt_encoder.prefix), Grammar.of(grammar)
        self._answer_tokens = max(answers.max_length for answers in (grammar, *groups))
        self._heads = {
            level: common_start([prompt_encoder.encode_question(probe, level) for probe in _PROBES])
            for level in ("dense", upper_question)
        }
        program = functools.partial(search_program, structures, hierarchy.num_frames, grammar.max_length, self.mesh)
        self._program = jax.jit(program, static_argnums=0)
        self._vectors = jax.jit(functools.partial(vectors_program, structures[1], self.mesh))

    def with_model(self, grounder) -> "Searcher":
        """The same search, its compiled programs shared, with other parameters of the dense level."""
        other = copy.copy(self)
        _, model = taken_apart(grounder, self.mesh)
        if signature(model) != signature(self.models[0]):
            raise ValueError("the grounder has another structure than the searcher's; make a new Searcher for it.")
        other.models = model, self.models[1]
        return other

    @property
    def compile_count(self) -> int:
        """How many programs were compiled: one a shape, never again for a shape seen before."""
        return self._program._cache_size() + self._vectors._cache_size()

    @property
    def vector_bytes(self) -> int:
        """Of a sparse vector, at most."""
        return 4 * self._hidden

    @property
    def max_depth(self) -> int:
        """The deepest search there is."""
        return self.hierarchy.max_depth if self._levels else 1

    def plan(self, depth: int, policy: str) -> Plan:
        """What a search of this depth does; see `planning.plan_search`."""
        return plan_search(tuple(self._levels), self.hierarchy, self.settings, depth, policy)

    def search(
        self, features: np.ndarray, fps: float, duration_s: float, sentences: Sequence[str], *,
        depth: int | None = None, policy: str | None = None, threshold: float = 0.0, query_tokens=None, similar=None,
        vectors: SparseVectors | None = None,
    ) -> list[Result]:  # fmt: skip
        """Ranked moments of every sentence in one video.

        Args:
          features: `[N, D]` frame features.
          fps: features a second.
          duration_s: length of the video in seconds.
          sentences: the queries.
          depth, policy: default: the settings'.
          threshold: goes into the results; it does not change the moments.
          query_tokens: CLIP's token features of the sentences `[Q, Tq, D]` and their mask `[Q, Tq]`; depths from 2 on
            need them. Tq must not differ between calls, or they compile again.
          similar: CLIP's holistic features of the sentences `[Q, D]`; policies that compare them, and the ranking by
            cosine, need them.
          vectors: of the same video and sentences, from `sparse_vectors`; default: the search makes its own.

        Raises:
          ValueError: features that are none or not finite, a sentence that cannot be asked, or something missing that
            the depth or policy needs.
        """
        check_features(features)
        if not len(sentences):
            self.cost = Cost()
            return []
        depth = self.settings.depth if depth is None else depth
        plan = self.plan(depth, policy or self.settings.policy)
        windows = self.windows(features, fps, duration_s, depth)
        found = self.search_windows(windows, features, duration_s, sentences, plan, query_tokens, similar, vectors)
        count = len(sentences)
        ranked = [moments[np.isfinite(moments[:, 2])].astype(np.float64) for moments in found.moments[:count]]
        if self.settings.ranking == "cosine":
            queries = required(similar, "search.ranking=cosine needs the sentences' features (similar)")
            ranked = [rows[cosine_order(features, fps, rows, query)] for rows, query in zip(ranked, queries)]
        sent = sent_down(found, windows, plan, count)
        pairs = found.chosen[:count].sum(axis=1)
        lengths = self._questions(sentences, "dense").lengths[:count].astype(np.int64)
        spent = lengths * pairs + found.decoded[:count]
        return [
            Result(
                sentence, moments, threshold, int(pairs[i]), int(spent[i]), tuple(level[i] for level in sent)
            )
            for i, (sentence, moments) in enumerate(zip(sentences, ranked))
        ]  # fmt: skip

    def windows(self, features: np.ndarray, fps: float, duration_s: float, depth: int) -> VideoWindows:
        """The windows of a video that a search of this depth looks at; the upper ones are the same at any depth."""
        return VideoWindows.of(self.hierarchy, duration_s, fps, len(features), depth, self.settings.windows)

    def sparse_vectors(
        self, windows: VideoWindows, features: np.ndarray, sentences: Sequence[str], query_tokens
    ) -> SparseVectors:
        """What several searches of a video can share; see `search`. `windows`: of any depth from 2 on."""
        started = time.perf_counter()
        inputs = self._upper_inputs(windows, sentences, query_tokens, self.settings)
        arguments = pad_frames(features), inputs
        self.shapes.add(tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(arguments)))
        array = jax.block_until_ready(self._vectors(self.models[1], *arguments))
        return SparseVectors(array, time.perf_counter() - started)

    def search_windows(
        self, windows: VideoWindows, features: np.ndarray, duration_s: float, sentences: Sequence[str], plan: Plan,
        query_tokens=None, similar=None, vectors: SparseVectors | None = None,
    ) -> Found:  # fmt: skip
        """Everything a search finds in given windows, on the host; see `search`. Sets `cost` and `answers`."""
        started = time.perf_counter() - (vectors.seconds if vectors and plan.levels else 0.0)
        pack = functools.partial(
            self._pack, windows, features, duration_s, sentences, plan, query_tokens, similar, vectors=vectors
        )
        plan, video = pack(self._fitted(pack))
        self.shapes.add((plan, *((x.shape, str(x.dtype)) for x in jax.tree.leaves(video))))
        found = self._program(*self._arguments(plan, video))
        self.answers = found.answers
        found = jax.device_get(found._replace(answers=None))
        self.cost = count_cost(
            self._flops, found, windows, video, plan, prefix=len(self._prefix), num_frames=self.hierarchy.num_frames,
            stored_frames=len(features), seconds=time.perf_counter() - started,
        )  # fmt: skip
        return found

    def _arguments(self, plan: Plan, video: VideoInputs) -> tuple:
        """What the program is called with."""
        grammars = tuple(self._grammars[len(self._grammars) - len(plan.levels) :])
        models = self.models if plan.levels else (self.models[0], None)
        return plan, models, (self._prefix, self._grammar, grammars), video

    def lower(
        self, features: np.ndarray, fps: float, duration_s: float, sentences: Sequence[str], *,
        depth: int, policy: str = "top_down", query_tokens=None, similar=None,
    ) -> tuple[jax.stages.Lowered, Need]:  # fmt: skip
        """The program of a search, not run: to compile it ahead, or to see what it needs; see `search`."""
        plan = self.plan(depth, policy)
        windows = self.windows(features, fps, duration_s, depth)
        pack = functools.partial(self._pack, windows, features, duration_s, sentences, plan, query_tokens, similar)
        plan, video = pack(self._fitted(pack))
        need = None if self._sizes[0] is None else self.need(plan, video)
        return self._program.lower(*self._arguments(plan, video)), need

    def _fitted(self, pack: Callable) -> SearchSettings:
        """The settings, their blocks made smaller until the search fits the memory; see `memory.fit`."""
        if not self.memory_gib or self._sizes[0] is None:
            return self.settings
        return fit(self.settings, self._shards, self.memory_gib * GIB, lambda some: self.need(*pack(some)))

    def need(self, plan: Plan, video: VideoInputs) -> Need:
        """What a packed search needs of a device's memory."""
        hidden, width = self._hidden, video.features.shape[1]
        shape = Shape(
            num_frames=self.hierarchy.num_frames,
            context=len(self._prefix) + self.hierarchy.num_frames + len(video.questions.head),
            answer_tokens=self._answer_tokens,
            shards=self._shards,
            window_bytes=4 * self.hierarchy.num_frames * (width + hidden),
            vector_bytes=self.vector_bytes,
            sparse_bytes=self._sparse_bytes,
        )
        return needed(held(self.models), tuple(self._sizes), plan, video, shape)

    def _upper_inputs(self, windows: VideoWindows, sentences, query_tokens, settings, batch: int = 1) -> UpperInputs:
        """What sparse vectors are made from."""
        query, mask = required(query_tokens, "upper levels need CLIP's token features of the sentences (query_tokens)")
        questions = self._questions(sentences, self.upper_question, batch)
        rows = len(questions.tokens)
        return UpperInputs(
            table=pack_windows(windows.upper_frames, settings.window_block),
            questions=questions,
            query=pack_rows(np.asarray(query), rows),
            query_mask=pack_rows(np.asarray(mask, bool), rows),
        )

    def _pack(
        self, windows, features, duration_s, sentences, plan: Plan, query_tokens, similar, settings, vectors=None
    ):  # fmt: skip
        """The plan with its batches, and the arrays of a search in fixed shapes."""
        block, batch, upper, counts = settings.window_block, settings.query_batch, None, None
        if plan.policy is not None:
            block, batch = chosen_shape(block, batch, self._shards, len(sentences))
            counts = plan.policy.counts(0 if windows.upper is None else len(windows.upper), len(windows.dense))
        plan = dataclasses.replace(
            plan, dense_batch=batch, upper_batch=max(batch // self._shards, 1), settings=settings
        )
        table = pack_windows(windows.dense_frames, block, self._shards)
        starts, lengths = (
            pack_rows(x.astype(np.float32), table.valid.size).reshape(table.valid.shape)
            for x in (windows.dense[:, 0], windows.dense[:, 1] - windows.dense[:, 0])
        )
        questions = self._questions(sentences, "dense", batch)
        rows = len(questions.tokens)
        if plan.levels:
            upper = self._upper_inputs(windows, sentences, query_tokens, settings, batch)
            shared = None if vectors is None else _slots(vectors.array, rows, upper.table.valid.size)
            upper = upper._replace(parents=pack_rows(windows.parents, table.valid.size), vectors=shared)
        compared = None
        if plan.policy is not None and plan.policy.needs_similarity:
            wanted = "policies that compare CLIP features need those of the sentences (similar)"
            compared = pack_rows(np.asarray(required(similar, wanted), np.float32), rows)
        return plan, VideoInputs(
            pad_frames(features), table, starts, lengths, np.float32(duration_s), questions, counts,
            compared, upper,
        )  # fmt: skip

    def question(self, sentence: str, level: str = "dense") -> np.ndarray:
        """Tokens `[n]` int32 of a level's question about a sentence.

        Raises:
          ValueError: it is empty, or with its answer longer than anything the model was trained on.
        """
        tokens = self.prompt_encoder.encode_question(sentence, level)
        length, limit = len(tokens) + self._answer_tokens, self.prompt_encoder.max_text_tokens
        if length > limit:
            raise ValueError(
                f"the query {sentence!r} needs {length} tokens with its answer; the model reads at most {limit} "
                f"(prompt.max_text_tokens). Shorten it."
            )
        return tokens

    def fit_questions(self, sentences: Sequence[str]) -> None:
        """Fixes the length that questions are padded to, so that all these sentences meet one program."""
        if not self.settings.question_tokens:
            length = max(self._questions(sentences, level).tokens.shape[1] for level in self._heads)
            self.settings = dataclasses.replace(self.settings, question_tokens=length)

    def _questions(self, sentences: Sequence[str], level: str, batch: int = 1) -> Questions:
        asked = [self.question(sentence, level) for sentence in sentences]
        return pack_questions(asked, self._heads[level], self.settings.question_tokens, batch)


def _slots(vectors: jax.Array, queries: int, windows: int) -> jax.Array:
    """Vectors `[Q, U, H]` cut or filled up to the slots that a search has; what is real comes first in both."""
    vectors = vectors[:queries, :windows]
    return jnp.pad(vectors, ((0, queries - vectors.shape[0]), (0, windows - vectors.shape[1]), (0, 0)))
