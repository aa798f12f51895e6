"""The whole search of a video as one program: upper levels, dense windows, ranking; divided over a mesh.

Letters: Q queries, W dense windows in N blocks of B, U upper windows, L upper levels, K moments kept.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.levels import Level, LevelsFound, UpperInputs, search_levels
from revision_jax.search.ranking import rank_moments
from revision_jax.search.recursion import Questions, WindowTable, search_windows
from revision_jax.search.selection import keep_best

EVERYWHERE = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed about a search at one depth; a program is compiled for each.

    Attributes:
      levels: upper levels, coarse first; none at depths 0 and 1.
      policy: of `policies.py`; None without levels.
      dense_batch, upper_batch: queries asked together of a window, and of the upper levels.
    """

    levels: tuple[Level, ...] = ()
    policy: object | None = None
    dense_batch: int = 1
    upper_batch: int = 1


class VideoInputs(NamedTuple):
    """A video and what is asked about it.

    Attributes:
      features: `[frames, D]`.
      table: dense windows.
      starts: `[N, B]` float32, their starts in seconds.
      window_s, duration_s: seconds of a window, of the video.
      questions: as the dense level asks them.
      upper: what the upper levels get; None without any.
    """

    features: jax.Array
    table: WindowTable
    starts: jax.Array
    window_s: jax.Array
    duration_s: jax.Array
    questions: Questions
    upper: UpperInputs | None


class Found(NamedTuple):
    """Everything a search finds.

    Attributes:
      moments: `[Q, K, 3]` float32, see `rank_moments`.
      confidence: `[Q, W]` float32 of dense answers, 0 where there is none.
      chosen: `[Q, W]` bool, the dense windows that were asked.
      decoded: `[Q]` int32, answer tokens at the dense level.
      levels: what the upper levels say, or None.
    """

    moments: jax.Array
    confidence: jax.Array
    chosen: jax.Array
    decoded: jax.Array
    levels: LevelsFound | None


def search_program(
    structures, num_frames, settings, answer_tokens, mesh: Mesh | None, plan: Plan, models, constants,
    video: VideoInputs,
) -> Found:  # fmt: skip
    """Searches one video; every argument before `models` is static."""
    found = None
    asked = jnp.arange(len(video.questions.tokens)) < video.questions.count
    chosen = asked[:, None] & video.table.valid.reshape(-1)  # [Q, W]
    if plan.levels:
        found = _upper_levels(structures[1], settings, mesh, plan, models[1], constants, video)
        scores = jnp.where(chosen, found.scores, -jnp.inf)
        chosen = keep_best(scores, video.upper.counts[-1])
    spans, confidence, decoded = _dense_windows(
        structures[0], settings, answer_tokens, mesh, plan, models[0], constants, video, chosen
    )
    if plan.levels:
        confidence = plan.policy.rescale(confidence, found.scores)
    # In units of frames, so that one program serves windows of every length (depth 0: as long as the video).
    start, end = Hierarchy(num_frames, num_frames).to_seconds(spans[..., 0], spans[..., 1], 0.0)
    scale, starts = video.window_s / num_frames, video.starts.reshape(-1)
    start, end = (jnp.clip(starts + x * scale, 0.0, video.duration_s) for x in (start, end))
    candidates = jnp.where(confidence > 0, confidence, -jnp.inf)
    moments = rank_moments(start, end, candidates, top_k=settings.top_k, nms_iou=settings.nms_iou)
    return Found(moments, confidence, chosen, decoded, found)


def _upper_levels(structure, settings, mesh, plan, model, constants, video) -> LevelsFound:
    """Each device goes through the upper levels for its own queries."""
    shards = 1 if mesh is None else mesh.shape["data"]

    def levels(model, constants, features, inputs):
        prefix, _, grammars = constants
        found = search_levels(
            nnx.merge(structure, model), plan.levels, grammars, plan.policy, prefix, features, inputs,
            query_batch=plan.upper_batch, group_block=settings.window_block // shards,
            decode_block=settings.decode_block, part=(0 if mesh is None else jax.lax.axis_index("data"), shards),
        )  # fmt: skip
        return found if mesh is None else jax.tree.map(_joined, found)

    if mesh is not None:
        levels = jax.shard_map(
            levels, mesh=mesh, axis_names={"data"}, check_vma=False, in_specs=(EVERYWHERE,) * 4, out_specs=EVERYWHERE
        )
    return levels(model, constants, video.features, video.upper)


def _joined(x):
    """The sum over devices, of which one holds the values and the others 0."""
    return jax.lax.psum(x.astype(jnp.int32), "data").astype(bool) if x.dtype == bool else jax.lax.psum(x, "data")


def _dense_windows(structure, settings, answer_tokens, mesh, plan, model, constants, video, chosen):
    """Asks the chosen pairs `[Q, W]`: -> spans `[Q, W, 2]`, confidence `[Q, W]`, answer tokens `[Q]`."""
    num_queries, (blocks, block) = len(chosen), video.table.valid.shape

    def windows(model, constants, features, table, chosen, questions):
        prefix, grammar, _ = constants
        state = search_windows(
            nnx.merge(structure, model), grammar, prefix, features, table, chosen, questions,
            answer_tokens=answer_tokens, query_batch=plan.dense_batch, decode_block=settings.decode_block,
        )  # fmt: skip
        decoded = state.decoded if mesh is None else jax.lax.psum(state.decoded, "data")
        shape = num_queries, blocks, -1
        return state.spans.reshape(*shape, 2), state.confidence.reshape(shape), decoded

    if mesh is not None:
        # Each device searches its own windows from end to end: nothing is exchanged before the ranking.
        divided, of_queries = PartitionSpec(None, "data"), PartitionSpec(None, None, "data")
        windows = jax.shard_map(
            windows, mesh=mesh, axis_names={"data"}, check_vma=False,
            in_specs=(EVERYWHERE, EVERYWHERE, EVERYWHERE, divided, of_queries, EVERYWHERE),
            out_specs=(of_queries, of_queries, EVERYWHERE),
        )  # fmt: skip
    spans, confidence, decoded = windows(
        model, constants, video.features, video.table, chosen.reshape(num_queries, blocks, block), video.questions
    )
    if mesh is not None:
        whole = NamedSharding(mesh, EVERYWHERE)
        spans, confidence = (jax.lax.with_sharding_constraint(x, whole) for x in (spans, confidence))
    return spans.reshape(num_queries, -1, 2), confidence.reshape(num_queries, -1), decoded
