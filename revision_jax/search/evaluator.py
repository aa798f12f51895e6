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
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from revision_jax.hierarchy import Hierarchy
from revision_jax.metrics.cost import Cost
from revision_jax.parallel.rules import sharding_for
from revision_jax.search.decoding import Grammar
from revision_jax.search.layout import common_start, pack_questions, pack_windows, pad_frames
from revision_jax.search.policies import policy_of
from revision_jax.search.ranking import rank_moments
from revision_jax.search.recursion import Questions, search_windows

_PROBES = ("a dog runs", "the zebra", "7 people")  # questions about them share only what all questions share


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How a search runs. Only `top_k` and `nms_iou` change its results.

    Attributes:
      top_k: moments kept for a query.
      nms_iou: of two moments that overlap by more than this IoU, the less sure one is dropped.
      query_batch: queries asked together of a block of windows.
      window_block: windows whose caches are held at a time; a longer video is streamed in blocks of them.
      decode_block: pairs of query and window decoded at a time after the first answer token.
      question_tokens: questions, behind the words they all begin with, are padded to this length; 0 takes the
        longest of a call, rounded up to 8.
    """

    top_k: int = 50
    nms_iou: float = 0.5
    query_batch: int = 1
    window_block: int = 128
    decode_block: int = 16
    question_tokens: int = 0

    def __post_init__(self):
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
      windows: windows asked.
      tokens: question and answer tokens spent on this query (the windows' own are shared by all queries).
    """

    sentence: str
    moments: np.ndarray
    threshold: float = 0.0
    windows: int = 0
    tokens: int = 0

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
    """Searches videos with one grounder.

    Args:
      grounder: `models.Grounder`; only read.
      prompt_encoder: `prompts.PromptEncoder`.
      grammar: `prompts.AnswerGrammar` of `dense_answers(hierarchy.num_frames)`.
      hierarchy: the windows.
      settings: how to search.
      mesh: devices; the windows of a block are divided over its `data` axis.

    Attributes:
      cost: `metrics.cost.Cost` of the last search.
      shapes: the distinct shapes searched so far; `compile_count` is their number, never more.
    """

    def __init__(
        self, grounder, prompt_encoder, grammar, hierarchy: Hierarchy, settings: SearchSettings | None = None,
        mesh: Mesh | None = None,
    ):  # fmt: skip
        self.prompt_encoder, self.hierarchy, self.mesh = prompt_encoder, hierarchy, mesh
        self.settings = settings or SearchSettings()
        self.cost = Cost()
        self.shapes: set[tuple] = set()
        self._shards = 1 if mesh is None else mesh.shape["data"]
        if self.settings.window_block % self._shards:
            raise ValueError(
                f"search.window_block is {self.settings.window_block}, the mesh has {self._shards} devices on its "
                f"data axis; expected a multiple, so that every device gets the same number of windows."
            )
        graphdef, self._model = _taken_apart(grounder, mesh)
        self._constants = (jnp.asarray(prompt_encoder.prefix), Grammar.of(grammar))
        self._answer_tokens = grammar.max_length
        self._head = common_start([prompt_encoder.encode_question(probe, "dense") for probe in _PROBES])
        program = functools.partial(
            _search_program, graphdef, hierarchy.num_frames, self.settings, grammar.max_length, self.mesh
        )
        self._program = jax.jit(program)

    def with_model(self, grounder) -> "Searcher":
        """The same search, its compiled programs shared, with other parameters of the same structure."""
        other = copy.copy(self)
        _, other._model = _taken_apart(grounder, self.mesh)
        if _signature(other._model) != _signature(self._model):
            raise ValueError("the grounder has another structure than the searcher's; make a new Searcher for it.")
        return other

    @property
    def compile_count(self) -> int:
        """How many programs were compiled: one a shape, never again for a shape seen before."""
        return self._program._cache_size()

    def search(
        self, features: np.ndarray, fps: float, duration_s: float, sentences: Sequence[str], *,
        depth: int = 1, threshold: float = 0.0,
    ) -> list[Result]:  # fmt: skip
        """Ranked moments of every sentence in one video.

        Args:
          features: `[N, D]` frame features.
          fps: features a second.
          duration_s: length of the video in seconds.
          sentences: the queries.
          depth: 0, one pass over the whole video; 1, every window.
          threshold: goes into the results; it does not change the moments.
        """
        started = time.perf_counter()
        self.cost = Cost()
        if not len(sentences):
            return []
        windows = policy_of(depth).windows(self.hierarchy, duration_s)
        frames = self.hierarchy.frame_indices(windows[:, 0], windows[:, 1], fps, len(features))
        table, starts = pack_windows(frames, windows[:, 0], self.settings.window_block, self._shards)
        questions = self._questions(sentences)
        padded = pad_frames(features)
        shapes = padded.shape, table.frames.shape, questions.head.shape, questions.tokens.shape
        self.shapes.add((*shapes, str(padded.dtype)))
        moments, decoded = jax.device_get(
            self._program(
                self._model, self._constants, jnp.asarray(padded), table, starts,
                np.float32(windows[0, 1] - windows[0, 0]), np.float32(duration_s),
                np.int32(-(-len(windows) // table.valid.shape[1])), questions,
            )
        )  # fmt: skip
        asked = np.asarray(questions.lengths)[: len(sentences)].astype(np.int64) * len(windows)
        tokens = asked + decoded[: len(sentences)]
        shared = len(windows) * (len(self._constants[0]) + self.hierarchy.num_frames + len(questions.head))
        self.cost = Cost(
            videos=1, queries=len(sentences), windows=len(windows), frames=frames.size,
            tokens_prefilled=shared + int(asked.sum()), tokens_decoded=int(decoded.sum()),
            seconds=time.perf_counter() - started,
        )  # fmt: skip
        return [
            Result(sentence, found[np.isfinite(found[:, 2])].astype(np.float64), threshold, len(windows), int(spent))
            for sentence, found, spent in zip(sentences, moments, tokens)
        ]

    def question(self, sentence: str) -> np.ndarray:
        """Tokens `[n]` int32 of the question about a sentence.

        Raises:
          ValueError: it is empty, or with its answer longer than anything the model was trained on.
        """
        tokens = self.prompt_encoder.encode_question(sentence, "dense")
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
            length = self._questions(sentences).tokens.shape[1]
            self.settings = dataclasses.replace(self.settings, question_tokens=length)

    def _questions(self, sentences: Sequence[str]) -> Questions:
        asked = [self.question(sentence) for sentence in sentences]
        return pack_questions(asked, self._head, self.settings.question_tokens, self.settings.query_batch)


def _search_program(
    graphdef, num_frames, settings, answer_tokens, mesh, model, constants, features, table, starts, window_s,
    duration_s, num_blocks, questions,
):  # fmt: skip
    """The whole search of one video: -> moments `[Q, K, 3]`, answer tokens a query `[Q]`."""

    def windows(model, constants, features, table, num_blocks, questions):
        prefix, grammar = constants
        state = search_windows(
            nnx.merge(graphdef, model), grammar, prefix, features, table, num_blocks, questions,
            answer_tokens=answer_tokens, query_batch=settings.query_batch, decode_block=settings.decode_block,
        )  # fmt: skip
        decoded = state.decoded if mesh is None else jax.lax.psum(state.decoded, "data")
        return state.spans, state.confidence, decoded

    if mesh is not None:
        # Each device searches its own windows from end to end: nothing is exchanged before the ranking.
        everywhere, divided = PartitionSpec(), PartitionSpec(None, "data")
        answered = PartitionSpec(None, None, "data")
        windows = jax.shard_map(
            windows, mesh=mesh, axis_names={"data"}, check_vma=False,
            in_specs=(everywhere, everywhere, everywhere, divided, everywhere, everywhere),
            out_specs=(answered, answered, everywhere),
        )  # fmt: skip
    spans, confidence, decoded = windows(model, constants, features, table, num_blocks, questions)
    if mesh is not None:
        whole = NamedSharding(mesh, everywhere)
        spans, confidence = (jax.lax.with_sharding_constraint(x, whole) for x in (spans, confidence))
    # In units of frames, so that one program serves windows of every length (depth 0: as long as the video).
    start, end = Hierarchy(num_frames, num_frames).to_seconds(spans[..., 0], spans[..., 1], 0.0)
    start, end = (jnp.clip(starts + x * (window_s / num_frames), 0.0, duration_s) for x in (start, end))
    flat = lambda x: x.reshape(x.shape[0], -1)
    candidates = flat(jnp.where(confidence > 0, confidence, -jnp.inf))
    moments = rank_moments(flat(start), flat(end), candidates, top_k=settings.top_k, nms_iou=settings.nms_iou)
    return moments, decoded


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
