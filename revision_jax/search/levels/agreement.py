"""Do overlapping windows agree? A moment that two windows see whole should be answered by both.

Letters: Q queries, W dense windows in the order of time, K answers of a pair.
"""

import jax
import jax.numpy as jnp

from revision_jax.search.ranking import temporal_iou

# By hand on val videos of Shapes: a window sees a moment if it holds so much of it, and gives it if the IoU of an
# answer with it is above so much.
_SEEN, _GIVEN = 0.7, 0.4


def stand_alone(
    start: jax.Array, end: jax.Array, found: jax.Array, asked: jax.Array, windows: jax.Array, near: int
) -> jax.Array:  # fmt: skip
    """Whether an answer stands alone: another window that was asked sees its moment, and none of those gives it.

    Args:
      start, end: `[Q, W, K]` float32 seconds, of the answers.
      found: `[Q, W, K]` bool, the answers that name a moment.
      asked: `[Q, W]` bool, the pairs that were asked.
      windows: `[W, 2]` float32 seconds.
      near: windows on either side that a window overlaps.

    Returns:
      `[Q, W, K]` bool.
    """
    count = asked.shape[1]
    seen, given = jnp.zeros_like(found), jnp.zeros_like(found)
    for offset in (offset for offset in range(-near, near + 1) if offset):
        of_other = lambda x, axis=1, offset=offset: jnp.roll(x, -offset, axis=axis)
        place = jnp.arange(count) + offset
        there = of_other(asked) & (place >= 0) & (place < count)
        first, last = of_other(windows, 0).T[..., None]  # [W, 1] each
        sees = jnp.minimum(end, last) - jnp.maximum(start, first) >= _SEEN * (end - start)
        sees &= there[..., None]
        iou = temporal_iou(start[..., None], end[..., None], of_other(start)[:, :, None], of_other(end)[:, :, None])
        gives = jnp.any((iou > _GIVEN) & of_other(found)[:, :, None], axis=-1)
        seen, given = seen | sees, given | (sees & gives)
    return found & seen & ~given
