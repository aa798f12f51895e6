"""Pictures of the Shapes world: shapes drawn anti-aliased on backgrounds.

Units: pixels of a `SIZE` x `SIZE` frame, radians for angles (clockwise on screen, 0 = pointing up).
"""

import functools
from collections.abc import Sequence

import numpy as np

from revision_jax import lazy

ndimage = lazy.module("scipy.ndimage")  # for drawing alone

SIZE = 64


@functools.cache
def _distance_field(shape: str, grid: int = 96) -> np.ndarray:
    """Signed distance `[grid, grid]` to a shape's outline in units of its radius, positive inside, over [-1.5, 1.5]."""
    y, x = np.mgrid[-1.5 : 1.5 : grid * 1j, -1.5 : 1.5 : grid * 1j]
    u, v = 1.2 * x, 0.2 - 1.15 * y
    inside = {
        "circle": lambda: x**2 + y**2 < 0.8,
        "square": lambda: np.maximum(abs(x), abs(y)) < 0.78,
        "triangle": lambda: (y < 0.8) & (y > -1 + 2.6 * abs(x)),
        "arrow": lambda: ((y < -0.1) & (y > -1 + 1.2 * abs(x))) | ((y >= -0.1) & (y < 0.95) & (abs(x) < 0.28)),
        "heart": lambda: (u**2 + v**2 - 0.7) ** 3 < 2 * u**2 * v**3,
        "moon": lambda: (x**2 + y**2 < 0.95) & (x**2 + (y + 0.5) ** 2 > 0.65),
    }[shape]()
    cell = 3.0 / (grid - 1)
    distance = ndimage.distance_transform_edt
    return ((distance(inside) - distance(~inside)) * cell).astype(np.float32)


def draw(canvas: np.ndarray, color: Sequence[float] | np.ndarray, shape: str, states: np.ndarray) -> None:
    """Draws one shape on each of `n` pictures, in place, anti-aliased.

    Args:
      canvas: `[n, SIZE, SIZE, 3]` float32, 0..255.
      color: RGB, 0..255, of all pictures `[3]` or of each `[n, 3]`.
      states: `[n, 5]` x, y, radius (pixels), angle (radians), alpha.
    """
    x, y, radius, angle, alpha = (column[:, None, None].astype(np.float32) for column in states.T)
    field = _distance_field(shape)
    axis = np.arange(SIZE, dtype=np.float32) + 0.5
    dx, dy = (axis[None, None, :] - x) / radius, (axis[None, :, None] - y) / radius
    cos, sin = np.cos(angle), np.sin(angle)
    scale = (len(field) - 1) / 3.0
    column = np.clip((dx * cos + dy * sin + 1.5) * scale + 0.5, 0, len(field) - 1).astype(np.int32)
    row = np.clip((dy * cos - dx * sin + 1.5) * scale + 0.5, 0, len(field) - 1).astype(np.int32)
    cover = np.clip(field[row, column] * radius + 0.5, 0, 1) * alpha
    canvas += cover[..., None] * (np.asarray(color, np.float32)[..., None, None, :] - canvas)


def backdrop(rng: np.random.Generator) -> np.ndarray:
    """One scene's background `[SIZE, SIZE, 3]` float32: a dark tint with a soft gradient."""
    tint = rng.uniform(20, 75) + rng.uniform(-14, 14, 3)
    slope = rng.uniform(-18, 18, 2)
    axis = np.linspace(-1, 1, SIZE)
    light = slope[0] * axis[:, None] + slope[1] * axis[None, :]
    return np.clip(tint + light[..., None], 0, 255).astype(np.float32)


@functools.cache
def noise_bank(sigma: float) -> np.ndarray:
    """Noise to be added to pictures, `[37, SIZE, SIZE, 1]` float32; `sigma` in units of 0..255."""
    return np.random.default_rng(0).normal(0, sigma, (37, SIZE, SIZE, 1)).astype(np.float32)
