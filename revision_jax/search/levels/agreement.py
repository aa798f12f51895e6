"""Do overlapping windows agree? A moment that two windows see whole should be answered by both.

So an answer counts less where another window that was asked sees the moment and does not give it (`stand_alone`), and a
search that asks few windows asks some of them because they see the moment of a sure answer (`could_verify`).

Letters: Q queries, W dense windows in the order of time, K answers of a pair.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from revision_jax.search.ranking import temporal_iou

# By hand on val videos of Shapes: a window sees a moment if it holds so much of it, and gives it if the IoU of an
# answer with it is above so much.
_SEEN, _GIVEN = 0.7, 0.4


class Spans(NamedTuple):
    """Answers as moments; `[Q, W, K]` each.

    Attributes:
      start, end: float32 seconds.
      found: bool, the answers that name a moment which counts.
      sure: float32, their confidences; 0 of the others.
    """

    start: jax.Array
    end: jax.Array
    found: jax.Array
    sure: jax.Array


def stand_alone(spans: Spans, asked: jax.Array, windows: jax.Array, near: int) -> jax.Array:
    """Whether an answer stands alone: another window that was asked sees its moment, and none of those gives it.

    Args:
      spans: the answers; of the pairs that were not asked none is found.
      asked: `[Q, W]` bool, the pairs that were asked.
      windows: `[W, 2]` float32 seconds.
      near: windows on either side that a window overlaps.

    Returns:
      `[Q, W, K]` bool.
    """
    start, end, found, _ = spans
    seen, given = jnp.zeros_like(found), jnp.zeros_like(found)
    for of_other, there in _others(asked.shape[1], near):
        sees = _sees(of_other(windows, 0), start, end) & (of_other(asked) & there)[..., None]
        iou = temporal_iou(start[..., None], end[..., None], of_other(start)[:, :, None], of_other(end)[:, :, None])
        gives = jnp.any((iou > _GIVEN) & of_other(found)[:, :, None], axis=-1)
        seen, given = seen | sees, given | (sees & gives)
    return found & seen & ~given


def could_verify(spans: Spans, asked: jax.Array, windows: jax.Array, near: int) -> jax.Array:
    """How sure the surest answer is that a window could verify: it sees the moment, and of the other windows that were
    asked none does.

    Args:
      spans, asked, windows, near: as `stand_alone` takes them.

    Returns:
      `[Q, W]` float32; 0 of windows that were asked, and where there is no such answer.
    """
    start, end, _, sure = spans
    neighbours = list(_others(asked.shape[1], near))
    for of_other, there in neighbours:
        sees = _sees(of_other(windows, 0), start, end) & (of_other(asked) & there)[..., None]
        sure = jnp.where(sees, 0.0, sure)
    best = jnp.zeros(asked.shape)
    for of_other, there in neighbours:
        sees = _sees(windows, of_other(start), of_other(end)) & there[:, None]
        best = jnp.maximum(best, jnp.max(jnp.where(sees, of_other(sure), 0.0), axis=-1))
    return jnp.where(asked, 0.0, best)


def _others(count: int, near: int) -> Iterator[tuple[Callable[..., jax.Array], jax.Array]]:
    """For each window on either side: what takes its values along an axis of so many, and `[W]` whether it exists."""
    for offset in (offset for offset in range(-near, near + 1) if offset):
        place = jnp.arange(count) + offset
        yield (lambda x, axis=1, offset=offset: jnp.roll(x, -offset, axis=axis)), (place >= 0) & (place < count)


def _sees(windows: jax.Array, start: jax.Array, end: jax.Array) -> jax.Array:
    """Whether windows `[W, 2]` hold enough of moments `[Q, W, K]`."""
    first, last = windows.T[..., None]  # [W, 1] each
    return jnp.minimum(end, last) - jnp.maximum(start, first) >= _SEEN * (end - start)
