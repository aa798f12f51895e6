"""`Searcher`: features of a video and sentences in, ranked moments out; one program, compiled once a shape."""

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.hierarchy import Hierarchy
from revision_jax.metrics.cost import Cost
from revision_jax.models.grounder import Grounder
from revision_jax.parallel.programs import Program
from revision_jax.prompts import AnswerGrammar, PromptEncoder, dense_answers
from revision_jax.search.answers.decoding import Grammar
from revision_jax.search.counting import Flops, count_cost
from revision_jax.search.levels.dense import Answers
from revision_jax.search.levels.selection import NumberTree
from revision_jax.search.levels.upper import UpperLevel
from revision_jax.search.memory import WHOLE_DEVICE, Memory, Need, Sizes, answers_bytes, fit, needed
from revision_jax.search.models import Models, Weights, signature, split_models
from revision_jax.search.packing.inputs import Reading
from revision_jax.search.packing.packer import Packed, Packer, Request, array_shapes, required
from revision_jax.search.packing.padding import round_up
from revision_jax.search.packing.questions import UPPER_ANSWERS, QuestionEncoder
from revision_jax.search.packing.shared import NOTHING, Made, Shared
from revision_jax.search.packing.whole import asks_all, counts_of, takes_part, whole_levels, whole_of
from revision_jax.search.packing.windows import VideoWindows, check_features
from revision_jax.search.plan import Plan, plan_search
from revision_jax.search.program import (
    Fixed,
    Found,
    Parts,
    join_found,
    reading_program,
    search_program,
    sent_down,
    vectors_program,
)
from revision_jax.search.released import cosine_order
from revision_jax.search.result import Result, Searched
from revision_jax.search.rules import CHOOSING
from revision_jax.search.sentences import Sentences
from revision_jax.search.settings import SearchSettings

_FLOAT = 4


class Searcher:
    """Searches videos with one grounder, or with one for each end of the hierarchy.

    Args:
      models: the grounders; only read.
      prompts: tokenizer and prompt.
      hierarchy: the windows.
      settings: how to search; `window_block` is rounded up to a multiple of the mesh's data axis.
      mesh: devices; the windows of a block, and the queries of upper levels, are divided over its `data` axis.
      memory: what a device may use; blocks are made smaller until a search fits.

    Attributes:
      shapes: the distinct shapes searched so far; `compile_count` is their number, never more.
    """

    def __init__(
        self, models: Models, prompts: PromptEncoder, hierarchy: Hierarchy, settings: SearchSettings,
        mesh: Mesh | None = None, memory: Memory = WHOLE_DEVICE,
    ):  # fmt: skip
        dense, upper, weights = split_models(models, mesh)
        answers = AnswerGrammar.compile(prompts, dense_answers(hierarchy.num_frames))
        groups = [] if models.upper is None else [
            AnswerGrammar.compile(prompts, UPPER_ANSWERS[models.upper_question](size)) for size in hierarchy.levels
        ]  # fmt: skip
        answer_tokens = max(grammar.max_length for grammar in (answers, *groups))
        near = math.ceil(1 / hierarchy.stride) - 1
        self._fixed = Fixed(dense, upper, mesh, hierarchy.num_frames, answers.max_length, near)
        self._parts = Parts(weights, jnp.asarray(prompts.prefix), Grammar.of(answers), tuple(map(Grammar.of, groups)))
        self._levels = tuple(
            UpperLevel(size, NumberTree.of(group), group.max_length, settings.readings)
            for size, group in zip(hierarchy.levels, groups)
        )
        shards = self._fixed.shards
        settings = dataclasses.replace(settings, window_block=round_up(settings.window_block, shards))
        self._models = models
        self.prompts, self.hierarchy, self.settings, self.mesh = prompts, hierarchy, settings, mesh
        questions = QuestionEncoder(prompts, models.upper_question, answer_tokens, settings.question_tokens)
        self._packer = Packer(questions, shards, models.dense.visual.frames_see_query)
        context = len(prompts.prefix) + hierarchy.num_frames
        self._sizes = Sizes.of(models, weights, context, self._fixed, answer_tokens)
        self._sizes = dataclasses.replace(self._sizes, beside=memory.beside)
        self._memory, self._budget = memory, memory.budget(mesh)
        self._flops = Flops(models.dense), None if models.upper is None else Flops(models.upper)
        self._program = Program(search_program, self._fixed, static_argnums=0)
        self._vectors = Program(vectors_program, self._fixed)
        self._reading = Program(reading_program, self._fixed, static_argnums=0)
        self.shapes: set[tuple] = set()

    # ------------------------------------------------------------------------------------------ the same, changed
    def with_model(self, grounder: Grounder) -> "Searcher":
        """The same search with other parameters of the dense level; compiled programs are shared.

        Raises:
          ValueError: the grounder has another structure.
        """
        models = dataclasses.replace(self._models, dense=grounder)
        weights = split_models(models, self.mesh)[2]
        if signature(weights.of_dense) != signature(self._parts.weights.of_dense):
            raise ValueError("the grounder has another structure than the searcher's; make a new Searcher for it.")
        other = copy.copy(self)
        other._models, other._parts = models, self._parts._replace(weights=weights)
        return other

    def fitted_to(self, sentences: Sequence[str]) -> "Searcher":
        """The same search with one question length for all these sentences, so that they meet one program.

        A length that the settings give stays. Compiled programs are shared.
        """
        other = copy.copy(self)
        other._packer = dataclasses.replace(self._packer, questions=self._packer.questions.fitted_to(sentences))
        other.settings = dataclasses.replace(self.settings, question_tokens=other._packer.questions.length)
        return other

    def choosing(self, **changes: Any) -> "Searcher":
        """The same search of other windows: fields of `rules.CHOOSING`. Compiled programs are shared.

        Raises:
          ValueError: another field, or a value that breaks its rule.
        """
        if strangers := sorted(set(changes) - set(CHOOSING)):
            raise ValueError(f"found {strangers}; expected some of {', '.join(CHOOSING)}.")
        other = copy.copy(self)
        other.settings = dataclasses.replace(self.settings, **changes)
        return other

    # -------------------------------------------------------------------------------------------------- what it is
    @property
    def parameters(self) -> Weights:
        """The parameters of the grounders in their places."""
        return self._parts.weights

    @property
    def compile_count(self) -> int:
        """How many programs were compiled: one a shape, never again for a shape seen before."""
        return sum(program.compile_count for program in (self._program, self._vectors, self._reading))

    @property
    def max_depth(self) -> int:
        """The depth of the deepest search."""
        return self.hierarchy.max_depth if self._levels else 1

    def check_room(self, work: int, what: str) -> None:
        """Raises MemoryError where `work` bytes of `what`, some other work, do not fit a device beside the models."""
        self._memory.check(self.mesh, self._sizes.weights, work, what)

    def question(self, sentence: str, level: str = "dense") -> np.ndarray:
        """Tokens `[n]` int32 of a level's question about a sentence; see `QuestionEncoder.encode`."""
        return self._packer.questions.encode(sentence, level)

    def plan(self, depth: int | None = None, policy: str | None = None) -> Plan:
        """What a search of this depth does, by default as the settings say; see `plan.plan_search`."""
        depth = self.settings.depth if depth is None else depth
        policy = self.settings.policy if policy is None else policy
        return plan_search(self._levels, self.hierarchy, self.settings, depth, policy)

    def windows(self, video: VideoFeatures, depth: int) -> VideoWindows:
        """The windows of a video that a search of this depth looks at; the upper ones are the same at any depth."""
        return VideoWindows.of(self.hierarchy, video, depth, self.settings.windows)

    # ---------------------------------------------------------------------------------------------------- searches
    def search(
        self, video: VideoFeatures, sentences: Sentences, *, depth: int | None = None, policy: str | None = None,
        threshold: float = 0.0, shared: Shared = NOTHING,
    ) -> Searched:  # fmt: skip
        """Ranked moments of every sentence in one video.

        Args:
          sentences: the queries, with the features that depth, policy and ranking need.
          depth, policy: default: the settings'.
          threshold: goes into the results; it does not change the moments.
          shared: of the same video and sentences, from `share`; the search takes what it can and makes the rest. One
            pass over the whole video (depth 0) takes nothing.

        Raises:
          ValueError: features that are none or not finite, a sentence that cannot be asked, or something missing that
            the depth or policy needs.
          MemoryError: the search does not fit the memory, however small its blocks.
        """
        check_features(video.features)
        if not len(sentences):
            return Searched([], Cost())
        depth = self.settings.depth if depth is None else depth
        plan = self.plan(depth, policy)
        request = Request(video, self.windows(video, depth), sentences, shared if depth else NOTHING)
        found, cost = self.search_windows(request, plan)
        results = self._results(request, plan, found, threshold)
        return Searched(results, cost, found.answers)

    def search_windows(self, request: Request, plan: Plan) -> tuple[Found, Cost]:
        """All that a search finds in given windows, on the host but for the answers; and its cost. See `search`.

        Many queries are asked in parts (`padding.query_chunks`): programs of few shapes serve any number of them. Then
        the answers are on the host, too, and a window that several parts ask is encoded, and counted, once a part.
        """
        started, all_found, cost = time.perf_counter(), [], Cost()
        for part in request.parts():
            packed = self._pack(part, plan)
            self.shapes.add(packed.shapes)
            found = self._program(packed.plan, self._parts_of(packed.plan), packed.video)
            found = jax.device_get(found._replace(answers=None))._replace(answers=found.answers)
            cost += count_cost(self._flops, packed, part.windows, found, len(self._parts.prefix))
            all_found.append((found, len(part.sentences)))
        seconds, video = self._seconds(request, plan, time.perf_counter() - started), request.video
        cost = dataclasses.replace(
            cost, videos=1, video_s=float(video.duration_s), seconds=seconds, stored_frames=len(video.features)
        )
        return join_found(all_found), cost

    # ------------------------------------------------------------------------------------------------ what is shared
    def share(self, request: Request, plan: Plan, most_bytes: float = math.inf, *, parts: bool = False) -> Shared:
        """What `request.shared` has, and all that a search by this plan has in common with others of the same request.

        That are sparse vectors, what a level says that is shown every window, and what every dense window answers.

        Args:
          request: at depth 1 or deeper; its windows may be those of another such depth.
          most_bytes: of a device, for each of the three; what takes more is not shared.
          parts: vectors and answers of all windows are made for a search of some, too: for many such searches.
        """
        shared, windows, queries = request.shared, request.windows, len(request.sentences)
        counts = counts_of(plan, self.settings, windows)
        whole = whole_levels(plan, windows, counts)
        upper = queries * len(windows.upper) if plan.levels else 0
        wanted = bool(whole) or (parts and bool(plan.levels))
        if wanted and shared.vectors is None and upper * self._sizes.vector_bytes <= most_bytes:
            shared = dataclasses.replace(shared, vectors=self._made(request, self._make_vectors))
        of_levels = dataclasses.replace(request, shared=Shared(shared.vectors))
        for level in whole:
            if level.size not in shared.levels and upper * _FLOAT <= most_bytes:
                made = self._made(of_levels, lambda part, level=level: self._read(part, plan, level))
                shared = dataclasses.replace(shared, levels={**shared.levels, level.size: made})
        answers = queries * len(windows.dense) * answers_bytes(self.settings.beam, self._sizes.answer_tokens)
        if shared.dense is None and (parts or asks_all(windows, counts)) and answers <= most_bytes:
            made = self._made(dataclasses.replace(request, shared=NOTHING), self._ask_all)
            shared = dataclasses.replace(shared, dense=made)
        return shared

    def _made(self, request: Request, make: Callable[[Request], Any]) -> Made:
        """What `make` makes of each part of a request, and its seconds."""
        started = time.perf_counter()
        parts = tuple(jax.block_until_ready(make(part)) for part in request.parts())
        return Made(parts, time.perf_counter() - started)

    def _make_vectors(self, part: Request) -> jax.Array:
        arguments = self._packer.vector_inputs(part, self.settings)
        self.shapes.add(array_shapes(arguments))
        return self._vectors(self._parts.weights, *arguments)

    def _read(self, part: Request, plan: Plan, level: UpperLevel) -> Reading:
        packed = self._pack(part, plan)
        plan, inputs = self._packer.level_inputs(part, packed.plan, level)
        self.shapes.add((plan, *array_shapes(inputs)))
        return self._reading(plan, self._parts_of(plan), inputs)

    def _ask_all(self, part: Request) -> Answers:
        packed = self._pack(part, Plan(self.settings))
        self.shapes.add(packed.shapes)
        return self._program(packed.plan, self._parts_of(packed.plan), packed.video).answers

    def whole_of(self, request: Request, plan: Plan) -> Shared:
        """Of `request.shared` that which a search by this plan takes whole, so that its seconds are known."""
        return whole_of(request.shared, plan, request.windows, counts_of(plan, self.settings, request.windows))

    def _seconds(self, request: Request, plan: Plan, own: float) -> float | None:
        """Of a search and of all it took that was shared; None where it took a part of something."""
        counts = counts_of(plan, self.settings, request.windows)
        if takes_part(request.shared, plan, request.windows, counts):
            return None
        used = whole_of(request.shared, plan, request.windows, counts)
        made = [used.vectors, used.dense, *used.levels.values()]
        return own + sum(one.seconds for one in made if one is not None)

    def trace(
        self, video: VideoFeatures, sentences: Sentences, *, depth: int | None = None, policy: str | None = None
    ) -> tuple[jax.stages.Traced, Need]:
        """The program of a search, traced but not run: to compile it ahead, or to see what it needs; see `search`.

        Of many queries the part that is asked first.
        """
        packed = self.packed(video, sentences, depth=depth, policy=policy)[0]
        traced = self._program.trace(packed.plan, self._parts_of(packed.plan), packed.video)
        return traced, needed(self._sizes, packed)

    def packed(
        self, video: VideoFeatures, sentences: Sentences, *, depth: int | None = None, policy: str | None = None
    ) -> list[Packed]:
        """A search in fixed shapes, part by part; `Packed.shapes` tells which programs it needs. See `search`."""
        depth = self.settings.depth if depth is None else depth
        plan = self.plan(depth, policy)
        return [self._pack(part, plan) for part in Request(video, self.windows(video, depth), sentences).parts()]

    def _pack(self, request: Request, plan: Plan) -> Packed:
        """The request in fixed shapes, the blocks made smaller until the search fits the memory."""
        need_of = lambda some: needed(self._sizes, self._packer.pack(request, plan, some))
        settings = fit(self.settings, self._fixed.shards, self._budget, need_of, self._memory.raising)
        return self._packer.pack(request, plan, settings)

    def _parts_of(self, plan: Plan) -> Parts:
        """What the program of a plan gets beside the video; grammars of the levels that it searches."""
        if not plan.levels:
            return self._parts._replace(weights=self._parts.weights.alone, upper_grammars=())
        grammars = tuple(self._parts.upper_grammars[self._levels.index(level)] for level in plan.levels)
        return self._parts._replace(upper_grammars=grammars)

    def _results(self, request: Request, plan: Plan, found: Found, threshold: float) -> list[Result]:
        """What was found, sentence by sentence."""
        texts, video = request.sentences.texts, request.video
        count = len(texts)
        ranked = [moments[np.isfinite(moments[:, 2])].astype(np.float64) for moments in found.moments[:count]]
        if self.settings.ranking == "cosine":
            wanted = "search.ranking=cosine needs the sentences' features (similar)"
            queries = required(request.sentences.similar, wanted)
            ranked = [
                rows[cosine_order(video.features, video.fps, rows, query)] for rows, query in zip(ranked, queries)
            ]
        sent = sent_down(found, request.windows, plan, count)
        pairs = found.chosen[:count].sum(axis=1)
        lengths = self._packer.questions.pack(texts, "dense").lengths[:count].astype(np.int64)
        tokens = lengths * pairs + found.decoded[:count]
        return [
            Result(text, moments, threshold, int(pairs[i]), int(tokens[i]), tuple(level[i] for level in sent))
            for i, (text, moments) in enumerate(zip(texts, ranked))
        ]
