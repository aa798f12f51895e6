"""The whole search of a video as one program: upper levels, dense windows, ranking; divided over a mesh.

What several searches of a video share, its sparse vectors, can be made by a program of its own.

Letters: Q queries, W dense windows in N blocks of B, U upper windows, L upper levels, K answers of a pair, M moments
kept.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.answering import Asking
from revision_jax.search.confidence import confidence
from revision_jax.search.dense_level import Answers, Questions, WindowTable, search_windows
from revision_jax.search.layout import VideoWindows
from revision_jax.search.ranking import rank_moments
from revision_jax.search.selection import keep_best, window_similarity
from revision_jax.search.settings import SearchSettings
from revision_jax.search.upper_levels import Level, LevelsFound, UpperInputs, search_levels, sparse_vectors

EVERYWHERE = PartitionSpec()


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed about a search at one depth; a program is compiled for each.

    Attributes:
      levels: upper levels, coarse first; none at depths 0 and 1.
      policy: of `policies.py`; None asks every window.
      dense_batch, upper_batch: queries asked together of a window, and of the upper levels.
      settings: `settings.SearchSettings`, with blocks that fit the memory.
    """

    levels: tuple[Level, ...] = ()
    policy: object | None = None
    dense_batch: int = 1
    upper_batch: int = 1
    settings: SearchSettings | None = None


class VideoInputs(NamedTuple):
    """A video and what is asked about it.

    Attributes:
      features: `[frames, D]`.
      table: dense windows.
      starts, lengths: `[N, B]` float32, their starts and lengths in seconds.
      duration_s: seconds of the video.
      questions: as the dense level asks them.
      counts: `[L + 1]` int32, windows that each level is shown, and the dense ones asked; None asks every window.
      similar: `[Q, D]`, holistic features of the sentences; None where no policy compares them.
      upper: what the upper levels get; None without any.
    """

    features: jax.Array
    table: WindowTable
    starts: jax.Array
    lengths: jax.Array
    duration_s: jax.Array
    questions: Questions
    counts: jax.Array | None
    similar: jax.Array | None
    upper: UpperInputs | None


class Found(NamedTuple):
    """Everything a search finds.

    Attributes:
      moments: `[Q, M, 3]` float32, see `rank_moments`.
      confidence: `[Q, W]` float32 of the best dense answers, 0 where there is none.
      answers: all dense answers, token by token.
      chosen: `[Q, W]` bool, the dense windows that were asked.
      decoded: `[Q]` int32, answer tokens at the dense level.
      levels: what the upper levels say, or None.
    """

    moments: jax.Array
    confidence: jax.Array
    answers: Answers
    chosen: jax.Array
    decoded: jax.Array
    levels: LevelsFound | None


def search_program(
    structures, num_frames, answer_tokens, mesh: Mesh | None, plan: Plan, models, constants, video: VideoInputs
) -> Found:  # fmt: skip
    """Searches one video; every argument before `models` is static."""
    settings = plan.settings
    upper = _upper_levels(structures[1], mesh, plan, models[1], constants, video) if plan.levels else None
    scores = None if upper is None else upper.scores
    chosen = _choose(plan, video, scores)
    answers, decoded = _dense_windows(structures[0], answer_tokens, mesh, plan, models[0], constants, video, chosen)
    spans = constants[1].answer[answers.state]  # [Q, W, K, 2]
    found = spans[..., 0] >= 0
    if settings.drop_last_frame:
        found &= ~jnp.all(spans == num_frames - 1, axis=-1)
    sure = confidence(settings.confidence, answers.entropies, answers.log_likelihood, answers.length)
    sure = jnp.where(found, sure, 0.0)
    if plan.policy is not None:
        sure = plan.policy.rescale(sure, scores)
    # In units of frames, so that one program serves windows of every length (depth 0: as long as the video).
    start, end = Hierarchy(num_frames, num_frames).to_seconds(spans[..., 0], spans[..., 1], 0.0)
    starts, scale = (x.reshape(-1, 1) for x in (video.starts, video.lengths / num_frames))
    start, end = (jnp.clip(starts + x * scale, 0.0, video.duration_s) for x in (start, end))
    flat = lambda x: x.reshape(len(x), -1)
    moments = rank_moments(
        flat(start), flat(end), flat(jnp.where(found, sure, -jnp.inf)), top_k=settings.top_k, nms_iou=settings.nms_iou
    )
    return Found(moments, jnp.max(sure, axis=-1), answers, chosen, decoded, upper)


def _choose(plan: Plan, video: VideoInputs, scores) -> jax.Array:
    """The pairs `[Q, W]` bool that the dense level is asked about, given the upper levels' scores `[Q, W]`."""
    asked = jnp.arange(len(video.questions.tokens)) < video.questions.count
    chosen, similarity = asked[:, None] & video.table.valid.reshape(-1), None
    if plan.policy is None:
        return chosen
    if plan.policy.needs_similarity:
        similarity = window_similarity(video.features, video.table.frames, video.similar)
        similarity = jnp.where(chosen, similarity, -jnp.inf)
    scores = None if scores is None else jnp.where(chosen, scores, -jnp.inf)
    scores = plan.policy.dense(scores, similarity)
    return keep_best(jnp.where(chosen, scores, -jnp.inf), video.counts[-1])


def _upper_levels(structure, mesh, plan, model, constants, video) -> LevelsFound:
    """Each device goes through the upper levels for its own queries."""
    shards = 1 if mesh is None else mesh.shape["data"]

    def levels(model, constants, counts, features, inputs):
        prefix, _, grammars = constants
        found = search_levels(
            nnx.merge(structure, model), plan.levels, grammars, plan.policy, counts, prefix, features, inputs,
            query_batch=plan.upper_batch, group_block=plan.settings.window_block // shards,
            decode_block=plan.settings.decode_block, part=(0 if mesh is None else jax.lax.axis_index("data"), shards),
        )  # fmt: skip
        return found if mesh is None else jax.tree.map(_joined, found)

    if mesh is not None:
        levels = jax.shard_map(
            levels, mesh=mesh, axis_names={"data"}, check_vma=False, in_specs=(EVERYWHERE,) * 5, out_specs=EVERYWHERE
        )
    return levels(model, constants, video.counts, video.features, video.upper)


def vectors_program(structure, mesh: Mesh | None, model, features, inputs: UpperInputs) -> jax.Array:
    """The sparse vectors `[Q, U, H]` of a video, for all searches of it; each device makes those of its queries."""
    shards = 1 if mesh is None else mesh.shape["data"]
    share = -(-len(inputs.questions.tokens) // shards)

    def vectors(model, features, inputs):
        number = 0 if mesh is None else jax.lax.axis_index("data")
        return sparse_vectors(nnx.merge(structure, model), features, inputs, number * share + jnp.arange(share))

    if mesh is not None:
        vectors = jax.shard_map(
            vectors, mesh=mesh, axis_names={"data"}, check_vma=False, in_specs=(EVERYWHERE,) * 3,
            out_specs=PartitionSpec("data"),
        )  # fmt: skip
    return vectors(model, features, inputs)


def _joined(x):
    """The sum over devices, of which one holds the values and the others 0."""
    return jax.lax.psum(x.astype(jnp.int32), "data").astype(bool) if x.dtype == bool else jax.lax.psum(x, "data")


def _dense_windows(structure, answer_tokens, mesh, plan, model, constants, video, chosen):
    """Asks the chosen pairs `[Q, W]`: -> `Answers` about them, and answer tokens `[Q]`."""
    num_queries, (blocks, block) = len(chosen), video.table.valid.shape
    asking = Asking(answer_tokens, plan.dense_batch, plan.settings.decode_block, plan.settings.strategy)

    def windows(model, constants, features, table, chosen, questions):
        prefix, grammar, _ = constants
        state = search_windows(nnx.merge(structure, model), grammar, prefix, features, table, chosen, questions, asking)
        decoded = state.decoded if mesh is None else jax.lax.psum(state.decoded, "data")
        # In blocks again, for it is the windows of a block that are divided over devices.
        return jax.tree.map(lambda x: x.reshape(num_queries, blocks, -1, *x.shape[2:]), state.answers), decoded

    if mesh is not None:
        # Each device searches its own windows from end to end: nothing is exchanged before the ranking.
        divided, of_queries = PartitionSpec(None, "data"), PartitionSpec(None, None, "data")
        windows = jax.shard_map(
            windows, mesh=mesh, axis_names={"data"}, check_vma=False,
            in_specs=(EVERYWHERE, EVERYWHERE, EVERYWHERE, divided, of_queries, EVERYWHERE),
            out_specs=(of_queries, EVERYWHERE),
        )  # fmt: skip
    answers, decoded = windows(
        model, constants, video.features, video.table, chosen.reshape(num_queries, blocks, block), video.questions
    )
    if mesh is not None:
        answers = jax.lax.with_sharding_constraint(answers, NamedSharding(mesh, EVERYWHERE))
    return jax.tree.map(lambda x: x.reshape(num_queries, -1, *x.shape[3:]), answers), decoded


def sent_down(found: Found, windows: VideoWindows, plan: Plan, count: int) -> list[list[np.ndarray]]:
    """Level -> query -> the windows it sent down, `[k, 2]` seconds; see `Result.sent`."""
    if plan.policy is None:
        return []
    shown = [] if found.levels is None else found.levels.shown[1:, :count]
    upper = [[windows.upper[row[: len(windows.upper)]] for row in level] for level in shown]
    return [*upper, [windows.dense[row[: len(windows.dense)]] for row in found.chosen[:count]]]
