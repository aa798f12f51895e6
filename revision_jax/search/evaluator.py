"""`Searcher`: a video's features and sentences in, ranked moments out; one program, compiled once a shape.

Shapes are rounded up to a few buckets (windows, frames, queries, question length), so that other videos and other
queries meet a program that is compiled already; the loops inside have dynamic bounds, so that rounding up costs
little time.
"""

import copy
import dataclasses
import functools
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from revision_jax.hierarchy import Hierarchy
from revision_jax.metrics.cost import Cost, LevelCost
from revision_jax.parallel.rules import sharding_for
from revision_jax.prompts import AnswerGrammar, group_answers, video_answers
from revision_jax.search.decoding import Grammar
from revision_jax.search.layout import (
    VideoWindows,
    chosen_shape,
    common_start,
    pack_questions,
    pack_rows,
    pack_windows,
    pad_frames,
)
from revision_jax.search.levels import Level, UpperInputs
from revision_jax.search.policies import BottomUp, TopDown, check_policy
from revision_jax.search.program import Found, Plan, VideoInputs, search_program
from revision_jax.search.recursion import Questions
from revision_jax.search.selection import NumberTree

_PROBES = ("a dog runs", "the zebra", "7 people")  # questions about them share only what all questions share
UPPER_ANSWERS = {"group": group_answers, "retrieval": video_answers}


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How a search runs. From `query_batch` on, settings do not change its results.

    Attributes:
      depth: how many levels a search has where a call does not say: 0, one pass over the whole video; 1, all dense
        windows; from 2 on, upper levels before them.
      policy: of the upper levels, `top_down` or `bottom_up`; see `policies.py`.
      keep: top_down: share of the windows that each upper level sends down, coarse first; a search of fewer levels
        takes the last ones.
      rescale: bottom_up: power of the upper levels' likelihood that rescales confidences.
      top_k: moments kept for a query.
      nms_iou: of two moments that overlap by more than this IoU, the less sure one is dropped.
      query_batch: queries asked together of a block of windows.
      window_block: windows whose caches are held at a time; a longer video is streamed in blocks of them.
      decode_block: pairs of query and window decoded at a time after the first answer token.
      question_tokens: questions, behind the words they all begin with, are padded to this length; 0 takes the
        longest of a call, rounded up to 8.
    """

    depth: int = 1
    policy: str = "top_down"
    keep: tuple[float, ...] = (0.8, 0.55)
    rescale: float = 0.5
    top_k: int = 50
    nms_iou: float = 0.5
    query_batch: int = 1
    window_block: int = 128
    decode_block: int = 16
    question_tokens: int = 0

    def __post_init__(self):
        check_policy(self.policy)
        if not all(0 < share <= 1 for share in self.keep):
            raise ValueError(f"search.keep is {self.keep}; expected shares of the windows in (0, 1].")
        if self.depth < 0 or self.rescale < 0:
            raise ValueError(f"search.depth is {self.depth}, search.rescale {self.rescale}; expected at least 0.")
        for name in ("top_k", "window_block", "query_batch", "decode_block"):
            if getattr(self, name) < 1:
                raise ValueError(f"search.{name} is {getattr(self, name)}; expected at least 1.")
        if not 0 <= self.nms_iou <= 1:
            raise ValueError(f"search.nms_iou is {self.nms_iou}; expected an IoU in [0, 1].")
        if self.question_tokens < 0:
            raise ValueError(f"search.question_tokens is {self.question_tokens}; expected at least 0.")


@dataclasses.dataclass(frozen=True)
class Result:
    """The answer to one sentence on one video.

    Attributes:
      sentence: the query.
      moments: `[k, 3]` float64 (start_s, end_s, confidence), surest first; k may be 0.
      threshold: the least confidence at which a moment counts as present.
      windows: dense windows asked.
      tokens: dense question and answer tokens spent on this query (the windows' own are shared by all queries).
      sent: the windows that each upper level sent down, `[k, 2]` seconds, coarse first: upper windows, and in the end
        the dense windows that were asked. Empty at depths 0 and 1, which ask them all.
    """

    sentence: str
    moments: np.ndarray
    threshold: float = 0.0
    windows: int = 0
    tokens: int = 0
    sent: tuple[np.ndarray, ...] = ()

    @property
    def score(self) -> float:
        """Confidence of the best moment; -inf if there is none (every window answered `Not Present`)."""
        return float(self.moments[0, 2]) if len(self.moments) else float("-inf")

    @property
    def present(self) -> bool:
        return self.score >= self.threshold and len(self.moments) > 0

    @property
    def found(self) -> np.ndarray:
        """The moments at or above the threshold, `[n, 3]`."""
        return self.moments[self.moments[:, 2] >= self.threshold]


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

    Attributes:
      cost: `metrics.cost.Cost` of the last search.
      shapes: the distinct shapes searched so far; `compile_count` is their number, never more.
    """

    def __init__(
        self, grounder, prompt_encoder, grammar, hierarchy: Hierarchy, settings: SearchSettings | None = None,
        mesh: Mesh | None = None, *, upper=None, upper_question: str = "group",
    ):  # fmt: skip
        self.prompt_encoder, self.hierarchy, self.mesh = prompt_encoder, hierarchy, mesh
        self.settings = settings or SearchSettings()
        self.upper_question = upper_question
        self.cost = Cost()
        self.shapes: set[tuple] = set()
        self._shards = 1 if mesh is None else mesh.shape["data"]
        if self.settings.window_block % self._shards:
            raise ValueError(
                f"search.window_block is {self.settings.window_block}, the mesh has {self._shards} devices on its "
                f"data axis; expected a multiple, so that every device gets the same number of windows."
            )
        parts = [(None, None) if model is None else _taken_apart(model, mesh) for model in (grounder, upper)]
        structures, self._models = zip(*parts)
        groups = [] if upper is None else [
            AnswerGrammar.compile(prompt_encoder, UPPER_ANSWERS[upper_question](size)) for size in hierarchy.levels
        ]  # fmt: skip
        self._levels = [
            Level(size, NumberTree.of(answers), answers.max_length) for size, answers in zip(hierarchy.levels, groups)
        ]
        self._grammars = [Grammar.of(answers) for answers in groups]
        self._prefix, self._grammar = jnp.asarray(prompt_encoder.prefix), Grammar.of(grammar)
        self._answer_tokens = max(answers.max_length for answers in (grammar, *groups))
        self._heads = {
            level: common_start([prompt_encoder.encode_question(probe, level) for probe in _PROBES])
            for level in ("dense", upper_question)
        }
        program = functools.partial(
            search_program, structures, hierarchy.num_frames, self.settings, grammar.max_length, self.mesh
        )
        self._program = jax.jit(program, static_argnums=0)

    def with_model(self, grounder) -> "Searcher":
        """The same search, its compiled programs shared, with other parameters of the dense level."""
        other = copy.copy(self)
        _, model = _taken_apart(grounder, self.mesh)
        if _signature(model) != _signature(self._models[0]):
            raise ValueError("the grounder has another structure than the searcher's; make a new Searcher for it.")
        other._models = model, self._models[1]
        return other

    @property
    def compile_count(self) -> int:
        """How many programs were compiled: one a shape, never again for a shape seen before."""
        return self._program._cache_size()

    @property
    def max_depth(self) -> int:
        """The deepest search there is."""
        return self.hierarchy.max_depth if self._levels else 1

    def plan(self, depth: int, policy: str) -> Plan:
        """What a search of this depth does.

        Raises:
          ValueError: there is no such depth or policy, or no grounder for upper levels.
        """
        check_policy(policy)
        if depth in (0, 1):
            return Plan()
        sizes = self.hierarchy.levels_of(depth)
        if not self._levels:
            raise ValueError(
                f"search depth {depth} needs a grounder of upper levels (a run of configs/stage2.py); this run has "
                f"none. Search at depth 1."
            )
        if len(self.settings.keep) != len(self._levels):
            raise ValueError(
                f"search.keep is {self.settings.keep}, hierarchy.levels {self.hierarchy.levels}; expected a share for "
                f"each level."
            )
        levels = tuple(self._levels[-len(sizes) :])
        if policy == "bottom_up":
            return Plan(levels, BottomUp(len(levels), self.settings.rescale))
        return Plan(levels, TopDown(tuple(self.settings.keep[-len(levels) :])))

    def search(
        self, features: np.ndarray, fps: float, duration_s: float, sentences: Sequence[str], *,
        depth: int | None = None, policy: str | None = None, threshold: float = 0.0, query_tokens=None,
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
        """
        if not len(sentences):
            self.cost = Cost()
            return []
        depth = self.settings.depth if depth is None else depth
        plan = self.plan(depth, policy or self.settings.policy)
        windows = VideoWindows.of(self.hierarchy, duration_s, fps, len(features), depth)
        found = self.search_windows(windows, features, duration_s, sentences, plan, query_tokens)
        count = len(sentences)
        sent = _sent_down(found, windows, plan, count)
        pairs = found.chosen[:count].sum(axis=1)
        lengths = self._questions(sentences, "dense").lengths[:count].astype(np.int64)
        spent = lengths * pairs + found.decoded[:count]
        return [
            Result(
                sentence, moments[np.isfinite(moments[:, 2])].astype(np.float64), threshold, int(pairs[i]),
                int(spent[i]), tuple(level[i] for level in sent),
            )
            for i, (sentence, moments) in enumerate(zip(sentences, found.moments))
        ]  # fmt: skip

    def search_windows(
        self, windows: VideoWindows, features: np.ndarray, duration_s: float, sentences: Sequence[str], plan: Plan,
        query_tokens=None,
    ) -> Found:  # fmt: skip
        """Everything a search finds in given windows, on the host; see `search`. Sets `cost`."""
        started = time.perf_counter()
        block, batch, upper = self.settings.window_block, self.settings.query_batch, None
        if plan.levels:
            block, batch = chosen_shape(block, batch, self._shards, len(sentences))
        plan = dataclasses.replace(plan, dense_batch=batch, upper_batch=max(batch // self._shards, 1))
        table, starts = pack_windows(windows.dense_frames, windows.dense[:, 0], block, self._shards)
        questions = self._questions(sentences, "dense", batch)
        if plan.levels:
            if query_tokens is None:
                raise ValueError("upper levels need query_tokens, CLIP's token features of the sentences; found none.")
            rows = len(questions.tokens)
            upper = UpperInputs(
                table=pack_windows(windows.upper_frames, windows.upper[:, 0], self.settings.window_block)[0],
                parents=pack_rows(windows.parents, table.valid.size),
                counts=plan.policy.counts(len(windows.upper), len(windows.dense)),
                questions=self._questions(sentences, self.upper_question, batch),
                query=pack_rows(np.asarray(query_tokens[0]), rows),
                query_mask=pack_rows(np.asarray(query_tokens[1], bool), rows),
            )
        video = VideoInputs(
            jnp.asarray(pad_frames(features)), table, starts, np.float32(windows.dense[0, 1] - windows.dense[0, 0]),
            np.float32(duration_s), questions, upper,
        )  # fmt: skip
        self.shapes.add((plan, *((x.shape, str(x.dtype)) for x in jax.tree.leaves(video))))
        grammars = tuple(self._grammars[len(self._grammars) - len(plan.levels) :])
        models = self._models if plan.levels else (self._models[0], None)
        found = jax.device_get(self._program(plan, models, (self._prefix, self._grammar, grammars), video))
        self.cost = self._count(found, windows, video, plan, time.perf_counter() - started)
        return found

    def _count(self, found: Found, windows: VideoWindows, video: VideoInputs, plan: Plan, seconds: float) -> Cost:
        """What a search cost."""
        count = int(video.questions.count)
        lengths, prefix, frames = video.questions.lengths[:count], len(self._prefix), self.hierarchy.num_frames
        encoded = int(found.chosen.any(axis=0).sum())
        pairs = found.chosen[:count].sum(axis=1)
        levels = []
        for i, level in enumerate(plan.levels):
            shown = int(video.upper.counts[i])
            groups = -(-shown // level.size)
            asked = video.upper.questions.lengths[:count].astype(np.int64)
            context = prefix + level.size + len(video.upper.questions.head) + len(level.tree.tokens)
            levels.append(LevelCost(
                windows=count * len(windows.upper),
                shown=count * shown,
                groups=count * groups,
                tokens_prefilled=groups * int((asked + context).sum()),
                tokens_decoded=int(found.levels.decoded[i].sum()),
            ))  # fmt: skip
        return Cost(
            videos=1, queries=count, windows=encoded, frames=encoded * frames,
            tokens_prefilled=encoded * (prefix + frames + len(video.questions.head)) + int((lengths * pairs).sum()),
            tokens_decoded=int(found.decoded.sum()), seconds=seconds,
            pairs=int(pairs.sum()), all_pairs=count * windows.all_dense, levels=tuple(levels),
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


def _sent_down(found: Found, windows: VideoWindows, plan: Plan, count: int) -> list[list[np.ndarray]]:
    """Level -> query -> the windows it sent down, `[k, 2]` seconds; see `Result.sent`."""
    if not plan.levels:
        return []
    upper = [[windows.upper[row[: len(windows.upper)]] for row in shown[:count]] for shown in found.levels.shown[1:]]
    return [*upper, [windows.dense[row[: len(windows.dense)]] for row in found.chosen[:count]]]


def _taken_apart(grounder, mesh: Mesh | None) -> tuple[nnx.GraphDef, nnx.State]:
    """Structure and parameters, these where the rules put them: elsewhere they would mean another program."""
    graphdef, state = nnx.split(grounder)
    if mesh is None:
        return graphdef, state
    put = lambda path, variable: variable.replace(
        jax.device_put(variable.get_value(), sharding_for("/".join(map(str, path)), variable, mesh))
    )
    return graphdef, nnx.from_flat_state([(path, put(path, variable)) for path, variable in nnx.to_flat_state(state)])


def _signature(state) -> tuple:
    leaves, structure = jax.tree.flatten(state)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
