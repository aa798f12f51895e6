"""How like a sentence the frames of windows are, by CLIP, and what it chooses: no language model is asked.

Letters: Q queries, W windows in N blocks of B, K answers of a pair, F frames of a window, D feature width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from revision_jax.models.precision import einsum

_WAIT = 0.3  # of a row's windows; by hand on val videos of Shapes, where 0.2 to 0.4 are alike
_EVEN = 60.0  # of reciprocal rank fusion: the larger, the more the two rankings' first places are alike


class Similarity(NamedTuple):
    """Of windows and sentences.

    Attributes:
      score: `[Q, W]` float32, the mean cosine of the window's most similar frames.
      peak: `[Q, W]` int32, its most similar frame.
      first, last: `[W]` int32, the frames at its ends.
    """

    score: jax.Array
    peak: jax.Array
    first: jax.Array
    last: jax.Array


def window_similarity(features: jax.Array, frames: jax.Array, queries: jax.Array, best: int = 3) -> Similarity:
    """How like sentences the frames of windows are.

    Args:
      features: `[frames, D]` of a whole video.
      frames: `[N, B, F]` int32, windows in blocks; one block is in memory at a time.
      queries: `[Q, D]`, holistic features of the sentences.
      best: frames of a window whose cosines are averaged.
    """

    def compare(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        cosine = _cosines(features[rows], queries)
        cosines, places = jax.lax.top_k(cosine, min(best, rows.shape[-1]))
        return jnp.mean(cosines, axis=-1), rows[jnp.arange(len(rows)), places[..., 0]]

    of_queries = lambda x: jnp.moveaxis(x, 0, 1).reshape(len(queries), -1)
    score, peak = map(of_queries, jax.lax.map(compare, frames))
    return Similarity(score, peak, frames[..., 0].reshape(-1), frames[..., -1].reshape(-1))


def span_similarity(features: jax.Array, frames: jax.Array, spans: jax.Array, queries: jax.Array) -> jax.Array:
    """The mean cosine `[Q, W, K]` float32 of the frames of answers with the sentences; 0 of an answer without a span.

    Args:
      features, frames, queries: as `window_similarity` takes them.
      spans: `[Q, W, K, 2]` int32, first frame and the frame behind the last, within the window; -1 without a span.
    """
    blocks = jnp.moveaxis(spans.reshape(len(spans), *frames.shape[:2], *spans.shape[2:]), 1, 0)
    place = jnp.arange(frames.shape[-1])

    def compare(block: tuple[jax.Array, jax.Array]) -> jax.Array:
        rows, spans = block
        start, end = spans[..., :1], jnp.maximum(spans[..., 1:], spans[..., :1] + 1)
        inside = (start <= place) & (place < end)  # [Q, B, K, F]
        total = jnp.sum(_cosines(features[rows], queries)[:, :, None] * inside, axis=-1)
        return total / jnp.maximum(jnp.sum(inside, axis=-1), 1)

    return jnp.moveaxis(jax.lax.map(compare, (frames, blocks)), 0, 1).reshape(spans.shape[:-1])


def _cosines(features: jax.Array, queries: jax.Array) -> jax.Array:
    """`[B, F, D]` and `[Q, D]` -> `[Q, B, F]` float32."""
    unit = lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return einsum("bfd,qd->qbf", unit(features.astype(jnp.float32)), unit(queries.astype(jnp.float32)))


def fuse_ranks(*scores: jax.Array) -> jax.Array:
    """Reciprocal rank fusion (Cormack et al., SIGIR 2009): `[Q, W]` each -> `[Q, W]`, whatever their scales.

    A score of -inf counts as ranked behind all others.
    """
    fused = jnp.zeros(scores[0].shape)
    for one in scores:
        rank = jnp.argsort(jnp.argsort(-one, axis=1, stable=True), axis=1)
        rank = jnp.where(jnp.isfinite(one), rank, one.shape[1])
        fused = fused + 1.0 / (_EVEN + rank)
    return fused


def keep_covering(scores: jax.Array, similarity: Similarity, count: int | jax.Array) -> jax.Array:
    """The `count` windows of each row that cover most: `[Q, W]` -> bool.

    One after the other, the best one is chosen. A window whose most similar frame lies in a chosen one falls back by
    `_WAIT` of the row's windows: overlapping windows are not chosen for the same moment while others have one to show,
    and still come in time where many are asked. Scores of -inf are never chosen; of equal ones the earlier is.
    """
    rows, real = jnp.arange(len(scores)), scores > -jnp.inf
    place = jnp.argsort(jnp.argsort(-scores, axis=1, stable=True), axis=1).astype(jnp.float32)
    wait = _WAIT * jnp.sum(real, axis=1, keepdims=True)

    def choose(_: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        chosen, covered = state
        left = real & ~chosen
        best = jnp.argmin(jnp.where(left, place + wait * covered, jnp.inf), axis=1)
        first, last = similarity.first[best][:, None], similarity.last[best][:, None]
        covered |= (similarity.peak >= first) & (similarity.peak <= last)
        return chosen.at[rows, best].max(left[rows, best]), covered

    return jax.lax.fori_loop(0, count, choose, (jnp.zeros_like(real), jnp.zeros_like(real)))[0]
