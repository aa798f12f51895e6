"""Ranked moments out of scored spans, on the device: temporal non-maximum suppression and top-k in one loop.

Letters: Q queries, M candidate spans of a query, K moments kept.
"""

import jax
import jax.numpy as jnp


def temporal_iou(start: jax.Array, end: jax.Array, other_start: jax.Array, other_end: jax.Array) -> jax.Array:
    """IoU of spans, by broadcasting: intersection / (max end - min start), at least 0 (REFERENCE section 8)."""
    intersection = jnp.minimum(end, other_end) - jnp.maximum(start, other_start)
    hull = jnp.maximum(end, other_end) - jnp.minimum(start, other_start)
    return jnp.maximum(intersection, 0.0) / jnp.maximum(hull, 1e-9)


def rank_moments(start: jax.Array, end: jax.Array, confidence: jax.Array, *, top_k: int, nms_iou: float) -> jax.Array:
    """Greedy NMS: takes the surest span, drops what overlaps it by IoU > `nms_iou`, and goes on.

    Args:
      start, end: `[Q, M]` float32 seconds.
      confidence: `[Q, M]` float32; candidates that are not finite, or spans without a length, do not compete.

    Returns:
      `[Q, K, 3]` float32 (start, end, confidence), best first; confidence -inf where there is no further moment.
    """
    start, end = jnp.asarray(start), jnp.asarray(end)
    queries = jnp.arange(start.shape[0])

    def take(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        alive, moments = carry
        best = jnp.argmax(alive, axis=1)
        moment = jnp.stack([start[queries, best], end[queries, best], alive[queries, best]], axis=1)  # [Q, 3]
        overlap = temporal_iou(start, end, moment[:, :1], moment[:, 1:2]) > nms_iou
        # The winner overlaps itself by 1, but with nms_iou = 1 nothing would drop it.
        gone = overlap | (jnp.arange(start.shape[1]) == best[:, None])
        return jnp.where(gone, -jnp.inf, alive), moments.at[:, k].set(moment)

    alive = jnp.where((end > start) & jnp.isfinite(confidence), confidence, -jnp.inf)
    moments = jnp.zeros((start.shape[0], top_k, 3), jnp.float32)
    return jax.lax.fori_loop(0, top_k, take, (alive, moments))[1]
