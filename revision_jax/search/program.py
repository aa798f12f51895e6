"""The whole search of a video as one program: upper levels, dense windows, ranking; divided over a mesh.

A second program makes only the sparse vectors, which several searches of a video can share.

Letters: Q queries, W dense windows in N blocks of B, U upper windows, L upper levels, K answers of a pair, M moments
kept.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.answers.asking import Asking
from revision_jax.search.answers.confidence import confidence
from revision_jax.search.answers.decoding import Grammar
from revision_jax.search.levels.agreement import Spans, could_verify, stand_alone
from revision_jax.search.levels.dense import Answers, DenseInputs, no_answers, search_pairs, search_windows, taken
from revision_jax.search.levels.selection import keep_best
from revision_jax.search.levels.similarity import keep_covering, span_similarity, window_similarity
from revision_jax.search.levels.upper import LevelsFound, UpperAsking, UpperData, search_levels, sparse_vectors
from revision_jax.search.models import Weights
from revision_jax.search.packing.inputs import LevelInputs, Reading, UpperInputs, VideoInputs
from revision_jax.search.packing.windows import VideoWindows
from revision_jax.search.plan import Plan
from revision_jax.search.ranking import rank_moments

EVERYWHERE = PartitionSpec()
States = tuple[nnx.State, nnx.State]  # parameters of a grounder: those it shares, and its own


@dataclasses.dataclass(frozen=True)
class Fixed:
    """What is the same for all searches of a searcher; static.

    Attributes:
      dense, upper: the structure of the grounders; None without upper levels.
      mesh: devices; windows of a block and queries of upper levels are divided over its `data` axis. None: one device.
      num_frames: F, frames of a window.
      answer_tokens: of the longest answer about a window, `</s>` included.
      near: windows on either side that a window overlaps.
    """

    dense: nnx.GraphDef
    upper: nnx.GraphDef | None
    mesh: Mesh | None
    num_frames: int
    answer_tokens: int
    near: int

    @property
    def shards(self) -> int:
        """Devices on the mesh's data axis."""
        return 1 if self.mesh is None else self.mesh.shape["data"]

    @property
    def shard(self) -> int | jax.Array:
        """The number of this device on the data axis, within `shard_map`."""
        return 0 if self.mesh is None else jax.lax.axis_index("data")


class Parts(NamedTuple):
    """The arrays that a program gets beside the video.

    Attributes:
      weights: parameters of the grounders; those of the upper one are None where no upper levels are searched.
      prefix: `[P]` int32, the tokens before a video.
      dense_grammar: of the answers about a window; upper_grammars: about a group, one a level that is searched.
    """

    weights: Weights
    prefix: jax.Array
    dense_grammar: Grammar
    upper_grammars: tuple[Grammar, ...]


class Found(NamedTuple):
    """Everything a search finds.

    Attributes:
      moments: `[Q, M, 3]` float32, see `rank_moments`.
      confidence: `[Q, W]` float32 of the best dense answers, 0 where there is none.
      answers: all dense answers, token by token.
      chosen: `[Q, W]` bool, the dense windows that were asked.
      verified: `[Q, W]` bool, those of them that were asked after the others had answered; None where none can be.
      decoded: `[Q]` int32, answer tokens at the dense level.
      levels: what the upper levels say, or None.
    """

    moments: jax.Array
    confidence: jax.Array
    answers: Answers
    chosen: jax.Array
    verified: jax.Array | None
    decoded: jax.Array
    levels: LevelsFound | None


def search_program(fixed: Fixed, plan: Plan, parts: Parts, video: VideoInputs) -> Found:
    """Searches one video; `fixed` and `plan` are static."""
    settings = plan.settings
    upper = _upper_levels(fixed, plan, parts, video) if plan.levels else None
    scores = None if upper is None else upper.scores
    windows = jnp.stack([video.starts, video.starts + video.lengths], axis=-1).reshape(-1, 2)
    choice = _choose(plan, video, scores)
    ask = lambda chosen: (
        _dense_windows(fixed, plan, parts, video, chosen) if video.asked is None else taken(video.asked, chosen)
    )
    spans_of = lambda answers: _spans(fixed, plan, parts, video, scores, answers)
    chosen, verified = choice.first, None
    if choice.held is None:
        answers, decoded = ask(chosen)
    else:
        nothing = no_answers(*chosen.shape, settings.beam, fixed.answer_tokens)
        verifies = lambda answers, asked: could_verify(spans_of(answers), asked, windows, fixed.near)
        answers, decoded, chosen = _ask_twice(choice, nothing, ask, verifies)
        verified = chosen & ~choice.first
    spans = spans_of(answers)
    sure = spans.sure
    if settings.alone < 1:
        sure *= jnp.where(stand_alone(spans, chosen, windows, fixed.near), settings.alone, 1.0)
    moments = rank_moments(
        *(x.reshape(len(x), -1) for x in (spans.start, spans.end, jnp.where(spans.found, sure, -jnp.inf))),
        top_k=settings.top_k, nms_iou=settings.nms_iou,
    )  # fmt: skip
    return Found(moments, jnp.max(sure, axis=-1), answers, chosen, verified, decoded, upper)


def _spans(
    fixed: Fixed, plan: Plan, parts: Parts, video: VideoInputs, scores: jax.Array | None, answers: Answers
) -> Spans:
    """The answers as moments with confidences, given the upper levels' scores `[Q, W]`; without what others answer."""
    settings = plan.settings
    spans = parts.dense_grammar.answer[answers.state]  # [Q, W, K, 2]
    found = spans[..., 0] >= 0
    if settings.drop_last_frame:
        found &= ~jnp.all(spans == fixed.num_frames - 1, axis=-1)
    sure = confidence(settings.confidence, answers.entropies, answers.log_likelihood, answers.length)
    sure = jnp.where(found, sure, 0.0)
    if plan.policy is not None:
        sure = plan.policy.rescale(sure, scores)
    if settings.similarity:
        alike = span_similarity(video.features, video.table.frames, spans, video.similar)
        sure *= jnp.exp(settings.similarity * (alike - 1.0))  # at most 1, as a likelihood is
    return Spans(*_seconds(fixed.num_frames, spans, video), found, sure)


def _seconds(num_frames: int, spans: jax.Array, video: VideoInputs) -> tuple[jax.Array, jax.Array]:
    """Start and end in seconds, `[Q, W, K]` each, of spans in frames `[Q, W, K, 2]`."""
    # In units of frames, so that one program serves windows of every length (depth 0: as long as the video).
    start, end = Hierarchy(num_frames, num_frames).to_seconds(spans[..., 0], spans[..., 1], 0.0)
    starts, scale = (x.reshape(-1, 1) for x in (video.starts, video.lengths / num_frames))
    start, end = (jnp.clip(starts + x * scale, 0.0, video.duration_s) for x in (start, end))
    return start, end


class Choice(NamedTuple):
    """Which pairs of query and dense window are asked.

    Attributes:
      first: `[Q, W]` bool, those that are asked whatever is answered.
      worth: `[Q, W]` float32 that ranks windows; -inf of those that do not exist or that no level sent down.
      held: `[]` int32, windows of a query that are asked after these; None where all are asked at once.
    """

    first: jax.Array
    worth: jax.Array | None = None
    held: jax.Array | None = None


def _choose(plan: Plan, video: VideoInputs, scores: jax.Array | None) -> Choice:
    """What the dense level is asked about, given the upper levels' scores `[Q, W]`."""
    asked = jnp.arange(len(video.questions.tokens)) < video.questions.count
    exist = asked[:, None] & video.table.valid.reshape(-1)
    if plan.policy is None:
        return Choice(exist)
    real = lambda x: jnp.where(exist, x, -jnp.inf)
    scores = None if scores is None else real(scores)
    count, held = video.counts[-1], None
    if verify := plan.settings.verify:
        held = jnp.where(count < jnp.sum(video.table.valid), jnp.floor(verify * count), 0).astype(jnp.int32)
        count = count - held
    if not plan.policy.needs_similarity:
        worth = real(plan.policy.dense_scores(scores, None))
        return Choice(keep_best(worth, count), worth, held)
    similarity = window_similarity(video.features, video.table.frames, video.similar)
    worth = real(plan.policy.dense_scores(scores, real(similarity.score)))
    return Choice(keep_covering(worth, similarity, count), worth, held)


def _ask_twice(
    choice: Choice, answers: Answers, ask: Callable[[jax.Array], tuple[Answers, jax.Array]],
    verifies: Callable[[Answers, jax.Array], jax.Array],
) -> tuple[Answers, jax.Array, jax.Array]:  # fmt: skip
    """Asks the first windows, then those that were held back: -> answers, tokens `[Q]`, the pairs asked `[Q, W]`.

    Args:
      answers: none yet.
      ask: the pairs to ask -> their answers and tokens.
      verifies: answers, the pairs asked `[Q, W]` -> `could_verify`, `[Q, W]`.
    """

    def turn(_: jax.Array, state: tuple) -> tuple:
        pairs, asked, answers, decoded = state
        told, tokens = ask(pairs)
        fresh = lambda x: pairs.reshape(*pairs.shape, *(1,) * (x.ndim - 2))
        answers = jax.tree.map(lambda old, new: jnp.where(fresh(new), new, old), answers, told)
        asked |= pairs
        return _verifying(choice, asked, verifies(answers, asked)), asked, answers, decoded + tokens

    # A loop, so that the dense level is compiled once.
    none, tokens = jnp.zeros_like(choice.first), jnp.zeros(len(choice.first), jnp.int32)
    _, asked, answers, decoded = jax.lax.fori_loop(0, 2, turn, (choice.first, none, answers, tokens))
    return answers, decoded, asked


def _verifying(choice: Choice, chosen: jax.Array, gain: jax.Array) -> jax.Array:
    """The pairs `[Q, W]` bool, `held` of a query, that can verify the surest answers; where few can, the next best.

    Args:
      chosen: `[Q, W]` bool, those that have been asked.
      gain: `[Q, W]` float32, see `could_verify`.
    """
    worth = -jnp.argsort(jnp.argsort(-choice.worth, axis=1, stable=True), axis=1).astype(jnp.float32)
    left = (choice.worth > -jnp.inf) & ~chosen
    return keep_best(jnp.where(left, jnp.where(gain > 0, 1.0 + gain, worth), -jnp.inf), choice.held)


def _upper_levels(fixed: Fixed, plan: Plan, parts: Parts, video: VideoInputs | LevelInputs) -> LevelsFound:
    """Each device goes through the upper levels for its own queries."""
    mesh, settings = fixed.mesh, plan.settings
    asking = UpperAsking(
        plan.levels, plan.policy, plan.upper_batch, settings.window_block // fixed.shards, settings.decode_block
    )

    def levels(model: States, data: UpperData) -> LevelsFound:
        found = search_levels(nnx.merge(fixed.upper, *model), data, asking, (fixed.shard, fixed.shards))
        return found if mesh is None else jax.tree.map(_joined, found)

    if mesh is not None:
        levels = jax.shard_map(
            levels, mesh=mesh, axis_names={"data"}, check_vma=False, in_specs=(EVERYWHERE,) * 2, out_specs=EVERYWHERE
        )
    data = UpperData(parts.prefix, parts.upper_grammars, video.counts, video.features, video.upper)
    return levels((parts.weights.shared, parts.weights.upper), data)


def reading_program(fixed: Fixed, plan: Plan, parts: Parts, video: LevelInputs) -> Reading:
    """What one upper level says of every window, for all searches of the video; `fixed` and `plan` are static."""
    found = _upper_levels(fixed, plan, parts, video)
    return Reading(found.scores, found.decoded[0])


def vectors_program(fixed: Fixed, weights: Weights, features: jax.Array, inputs: UpperInputs) -> jax.Array:
    """The sparse vectors `[Q, U, H]` of a video, for all searches of it; each device makes those of its queries.

    Args:
      fixed: static.
      weights: parameters of the grounders.
      features: `[frames, D]`, the whole video.
    """
    share = -(-len(inputs.questions.tokens) // fixed.shards)

    def vectors(model: States, features: jax.Array, inputs: UpperInputs) -> jax.Array:
        queries = fixed.shard * share + jnp.arange(share)
        shown = (queries < inputs.questions.count)[:, None] & inputs.table.valid.reshape(-1)
        return sparse_vectors(nnx.merge(fixed.upper, *model), features, inputs, queries, shown)

    if fixed.mesh is not None:
        vectors = jax.shard_map(
            vectors, mesh=fixed.mesh, axis_names={"data"}, check_vma=False, in_specs=(EVERYWHERE,) * 3,
            out_specs=PartitionSpec("data"),
        )  # fmt: skip
    return vectors((weights.shared, weights.upper), features, inputs)


def _joined(x: jax.Array) -> jax.Array:
    """The sum over devices, of which one holds the values and the others 0."""
    return jax.lax.psum(x.astype(jnp.int32), "data").astype(bool) if x.dtype == bool else jax.lax.psum(x, "data")


def _dense_windows(
    fixed: Fixed, plan: Plan, parts: Parts, video: VideoInputs, chosen: jax.Array
) -> tuple[Answers, jax.Array]:
    """Asks the chosen pairs `[Q, W]`: -> answers about them, and answer tokens generated `[Q]`."""
    mesh, num_queries, (blocks, block) = fixed.mesh, len(chosen), video.table.valid.shape
    asking = Asking(fixed.answer_tokens, plan.dense_batch, plan.settings.decode_block, plan.settings.strategy)

    def windows(model: States, inputs: DenseInputs, chosen: jax.Array) -> tuple[Answers, jax.Array]:
        search = search_windows if inputs.seen is None else search_pairs
        state = search(nnx.merge(fixed.dense, *model), inputs, chosen, asking)
        decoded = state.decoded if mesh is None else jax.lax.psum(state.decoded, "data")
        # In blocks again: the windows of a block are divided over devices.
        return jax.tree.map(lambda x: x.reshape(num_queries, blocks, -1, *x.shape[2:]), state.answers), decoded

    if mesh is not None:
        # Each device searches its own windows from end to end: nothing is exchanged before the ranking.
        divided, of_queries = PartitionSpec(None, "data"), PartitionSpec(None, None, "data")
        specs = DenseInputs(*(EVERYWHERE,) * 6)._replace(table=divided)
        windows = jax.shard_map(
            windows, mesh=mesh, axis_names={"data"}, check_vma=False, in_specs=(EVERYWHERE, specs, of_queries),
            out_specs=(of_queries, EVERYWHERE),
        )  # fmt: skip
    inputs = DenseInputs(parts.prefix, parts.dense_grammar, video.features, video.table, video.questions, video.seen)
    answers, decoded = windows(
        (parts.weights.shared, parts.weights.dense), inputs, chosen.reshape(num_queries, blocks, block)
    )
    if mesh is not None:
        answers = jax.lax.with_sharding_constraint(answers, NamedSharding(mesh, EVERYWHERE))
    return jax.tree.map(lambda x: x.reshape(num_queries, -1, *x.shape[3:]), answers), decoded


def join_found(parts: Sequence[tuple[Found, int]]) -> Found:
    """What was found about parts of the queries, and how many each part has: as if they had been asked together.

    A single part stays as it is; several are joined on the host, without the padding behind their queries.
    """
    if len(parts) == 1:
        return parts[0][0]
    founds = [(jax.device_get(found), count) for found, count in parts]
    join = lambda axis: (
        lambda *arrays: np.concatenate(
            [x[(slice(None),) * axis + (slice(count),)] for x, (_, count) in zip(arrays, founds)], axis=axis
        )
    )
    levels = None
    if founds[0][0].levels is not None:
        each = [found.levels for found, _ in founds]
        levels = LevelsFound(*(join(axis)(*arrays) for axis, arrays in zip((0, 1, 1), zip(*each))))
    return jax.tree.map(join(0), *(found._replace(levels=None) for found, _ in founds))._replace(levels=levels)


def sent_down(found: Found, windows: VideoWindows, plan: Plan, count: int) -> list[list[np.ndarray]]:
    """Level -> query -> the windows it sent down, `[k, 2]` seconds; see `Result.sent`."""
    if plan.policy is None:
        return []
    shown = [] if found.levels is None else found.levels.shown[1:, :count]
    upper = [[windows.upper[row[: len(windows.upper)]] for row in level] for level in shown]
    return [*upper, [windows.dense[row[: len(windows.dense)]] for row in found.chosen[:count]]]
