"""Packs a video and sentences into the arrays of fixed shapes that the search program takes.

Shapes are rounded up to a few sizes (windows, frames, queries, question length), so that other videos and other queries
meet a program that is compiled already; the loops of the program have dynamic bounds, so that rounding up costs little
time.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.search.levels.dense import Answers
from revision_jax.search.levels.upper import UpperLevel
from revision_jax.search.packing.inputs import LevelInputs, Reading, Seen, UpperInputs, VideoInputs
from revision_jax.search.packing.padding import asked_shape, pack_rows, pack_windows, pad_frames, query_chunks
from revision_jax.search.packing.questions import QuestionEncoder
from revision_jax.search.packing.shared import NOTHING, Shared
from revision_jax.search.packing.whole import counts_of, whole_levels
from revision_jax.search.packing.windows import VideoWindows
from revision_jax.search.plan import Plan
from revision_jax.search.policies.bottom_up import BottomUp
from revision_jax.search.sentences import Sentences
from revision_jax.search.settings import SearchSettings


@dataclasses.dataclass(frozen=True)
class Request:
    """What is searched for, and where.

    Attributes:
      video: features of the whole video.
      windows: its windows.
      sentences: the queries.
      shared: of the same video and sentences; what it lacks the search makes for itself.
      first: the number of the first sentence, where they are a part of all.
    """

    video: VideoFeatures
    windows: VideoWindows
    sentences: Sentences
    shared: Shared = NOTHING
    first: int = 0

    def parts(self) -> list["Request"]:
        """The queries in the parts that are asked together."""
        return [
            dataclasses.replace(
                self, sentences=self.sentences.part(chunk), first=chunk.start, shared=self.shared.part(i)
            )
            for i, chunk in enumerate(query_chunks(len(self.sentences)))
        ]


class Packed(NamedTuple):
    """A search in fixed shapes: the plan with its blocks and batches, and the arrays."""

    plan: Plan
    video: VideoInputs

    @property
    def shapes(self) -> tuple:
        """What decides whether a program for it is compiled already."""
        return self.plan, *array_shapes(self.video)


@dataclasses.dataclass(frozen=True)
class Packer:
    """Packs requests for one searcher.

    Attributes:
      questions: tokenises sentences.
      shards: devices on the mesh's data axis.
      frames_see_query: whether the dense level, too, gets CLIP's token features of the sentences.
    """

    questions: QuestionEncoder
    shards: int
    frames_see_query: bool = False

    def pack(self, request: Request, plan: Plan, settings: SearchSettings) -> Packed:
        """A part of a request in fixed shapes; `settings` are the plan's, perhaps with smaller blocks.

        Raises:
          ValueError: a sentence that cannot be asked, or features missing that the plan needs.
        """
        windows, texts, policy = request.windows, request.sentences.texts, plan.policy
        block, batch = asked_shape(
            settings.window_block, settings.query_batch, self.shards, len(texts), all_asked=policy is None
        )
        counts = counts_of(plan, settings, windows)
        plan = dataclasses.replace(
            plan, settings=settings.of_program(), policy=None if policy is None else policy.of_program(),
            dense_batch=batch, upper_batch=max(batch // self.shards, 1),
        )  # fmt: skip
        table = pack_windows(windows.dense_frames, block, self.shards, growth=4)
        seconds = lambda x: pack_rows(x.astype(np.float32), table.valid.size).reshape(table.valid.shape)
        questions = self.questions.pack(texts, "dense", batch)._replace(first=np.int32(request.first))
        similar = None
        if settings.similarity or (policy is not None and policy.needs_similarity):
            wanted = "search.similarity and policies that compare CLIP features need those of the sentences (similar)"
            similar = np.asarray(required(request.sentences.similar, wanted), np.float32)
            similar = pack_rows(similar, len(questions.tokens))
        video = VideoInputs(
            features=pad_frames(request.video.features),
            table=table,
            starts=seconds(windows.dense[:, 0]),
            lengths=seconds(windows.dense[:, 1] - windows.dense[:, 0]),
            duration_s=np.float32(request.video.duration_s),
            questions=questions,
            counts=counts,
            similar=similar,
            upper=self._upper(request, plan, batch, table.valid.size, counts) if plan.levels else None,
            seen=_seen(request.sentences, len(questions.tokens), "windows") if self.frames_see_query else None,
            asked=_asked(request, len(questions.tokens), table.valid.size),
        )
        return Packed(plan, video)

    def vector_inputs(self, request: Request, settings: SearchSettings) -> tuple[np.ndarray, UpperInputs]:
        """The features `[frames, D]` and what else sparse vectors are made from.

        Raises:
          ValueError: as `pack`.
        """
        return pad_frames(request.video.features), self._upper_inputs(request, settings, batch=1)

    def level_inputs(self, request: Request, plan: Plan, level: UpperLevel) -> tuple[Plan, LevelInputs]:
        """The plan of a level that is shown every window, and what it reads; `plan` is that of a packed search."""
        plan = dataclasses.replace(plan, levels=(level,), policy=BottomUp(1, 0.0))
        windows = len(request.windows.upper)
        inputs, slots = self._upper_inputs(request, plan.settings, plan.dense_batch), np.arange(windows)[:, None]
        inputs = inputs._replace(parents=pack_rows(slots, inputs.table.valid.size), vectors=_vectors(request, inputs))
        return plan, LevelInputs(pad_frames(request.video.features), np.array([windows, 0], np.int32), inputs)

    def _upper(self, request: Request, plan: Plan, batch: int, dense: int, counts: np.ndarray) -> UpperInputs:
        """What upper levels get; `dense` slots of dense windows; `counts` of `Policy.counts`."""
        inputs = self._upper_inputs(request, plan.settings, batch)
        queries, slots = len(inputs.questions.tokens), inputs.table.valid.size
        if plan.policy.shortlists:
            inputs = inputs._replace(similar=pack_rows(np.asarray(request.sentences.similar, np.float32), queries))
        read = itertools.takewhile(lambda one: one is not None, readings_of(request, plan, counts))
        readings = tuple(Reading(_slots(one.scores, queries, slots), _slots(one.decoded, queries)) for one in read)
        vectors = _vectors(request, inputs) if len(readings) < len(plan.levels) else None
        return inputs._replace(parents=pack_rows(request.windows.parents, dense), vectors=vectors, readings=readings)

    def _upper_inputs(self, request: Request, settings: SearchSettings, batch: int) -> UpperInputs:
        sentences = request.sentences
        questions = self.questions.pack(sentences.texts, self.questions.upper_question, batch)
        seen = _seen(sentences, len(questions.tokens), "upper levels")
        return UpperInputs(
            table=pack_windows(request.windows.upper_frames, settings.window_block),
            questions=questions,
            query=seen.query,
            query_mask=seen.mask,
        )


def _seen(sentences: Sentences, rows: int, by: str) -> Seen:
    """The token features of the sentences, filled up to so many rows; ValueError, naming `by`, where there are none."""
    query = required(sentences.tokens, f"{by} need CLIP's token features of the sentences (tokens and mask)")
    return Seen(pack_rows(np.asarray(query), rows), pack_rows(np.asarray(sentences.mask, bool), rows))


def required(value: Any, message: str) -> Any:
    """`value`; raises ValueError if it is None."""
    if value is None:
        raise ValueError(f"{message}; found none.")
    return value


def array_shapes(arrays: Any) -> tuple[tuple[tuple[int, ...], str], ...]:
    """Shape and dtype of every array of a tree."""
    return tuple((x.shape, str(x.dtype)) for x in jax.tree.leaves(arrays))


def readings_of(request: Request, plan: Plan, counts: np.ndarray) -> Iterator[Reading | None]:
    """What was read before, level by level; None for a level that no one has read."""
    for level in whole_levels(plan, request.windows, counts):
        made = request.shared.levels.get(level.size)
        yield None if made is None else made.parts[0]


def _asked(request: Request, queries: int, windows: int) -> Answers | None:
    """What every dense window answered before, in the slots of a search."""
    if request.shared.dense is None:
        return None
    return jax.tree.map(lambda x: _slots(x, queries, windows), request.shared.dense.parts[0])


def _vectors(request: Request, inputs: UpperInputs) -> jax.Array | None:
    """Sparse vectors that were made before, in the slots of a search."""
    if request.shared.vectors is None:
        return None
    return _slots(request.shared.vectors.parts[0], len(inputs.questions.tokens), inputs.table.valid.size)


def _slots(array: jax.Array, *sizes: int) -> jax.Array:
    """An array cut or filled up to the slots `[Q]` or `[Q, U]` that a search has; real ones come first in both."""
    array = array[tuple(slice(size) for size in sizes)]
    more = [(0, size - there) for size, there in zip(sizes, array.shape)]
    return jnp.pad(array, more + [(0, 0)] * (array.ndim - len(sizes)))
