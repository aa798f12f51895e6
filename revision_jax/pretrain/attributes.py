"""What can be seen in one frame of the Shapes world, as words and as soft weights of those words.

The tiny CLIP learns captions made of these words, the tiny LLM learns to look frames up whose tokens are mixtures
of them, and the projector is fitted from CLIP features to the same mixtures: this vocabulary is where the three
meet. Weights are piecewise linear in position, size, orientation and brightness, so that a change over time can be
read off a sequence of frames.
"""

import numpy as np

from revision_jax.data.builders.shapes_drawing import SIZE
from revision_jax.data.builders.shapes_events import COLORS, SHAPES, TURNABLE

HORIZONTAL = ("left", "center", "right")
VERTICAL = ("top", "middle", "bottom")
SIZES = ("small", "medium", "large")
HEADINGS = ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest")
BRIGHTNESS = ("faint", "bright")
NOTHING = "nothing"
WORDS = (*COLORS, *SHAPES, *HORIZONTAL, *VERTICAL, *SIZES, *HEADINGS, *BRIGHTNESS, NOTHING)

# How loud a word is in the mixture: queries always name colour and shape, so these must be easy to match.
LOUDNESS = np.ones(len(WORDS), np.float32)
LOUDNESS[: len(COLORS) + len(SHAPES)] = 2.5

_POSITION_KNOTS = np.array([0.15, 0.5, 0.85]) * SIZE  # pixels
_SIZE_KNOTS = np.array([6.5, 11.0, 16.5])  # radius, pixels
_TURNABLE = np.array([shape in TURNABLE for shape in SHAPES])


def _hats(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Weights `[..., knots]` of linear interpolation between `knots`, constant outside them."""
    return np.stack([np.interp(values, knots, row) for row in np.eye(len(knots))], axis=-1)


def weights(color: np.ndarray, shape: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Soft weights `[n, len(WORDS)]` float32 of the words that describe one shape a frame.

    Args:
      color, shape: `[n]` int, indices into COLORS and SHAPES.
      states: `[n, 5]` x, y, radius (pixels), angle (radians), alpha, as `shapes_tracks.Track`.
    """
    x, y, radius, angle, alpha = states.T
    heading = np.mod(angle, 2 * np.pi) * len(HEADINGS) / (2 * np.pi)
    circle = np.arange(len(HEADINGS) + 1.0)
    turn = _hats(heading, circle)
    turn[..., 0] += turn[..., -1]
    parts = [
        np.eye(len(COLORS))[color],
        np.eye(len(SHAPES))[shape],
        _hats(x, _POSITION_KNOTS),
        _hats(y, _POSITION_KNOTS),
        _hats(radius, _SIZE_KNOTS),
        turn[..., :-1] * _TURNABLE[shape][..., None],
        np.stack([1 - alpha, alpha], axis=-1),
        np.zeros((len(states), 1)),
    ]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def nothing() -> np.ndarray:
    """The weights `[len(WORDS)]` of an empty frame."""
    return np.eye(len(WORDS), dtype=np.float32)[-1]


def caption(weight: np.ndarray, keep: np.ndarray) -> str:
    """Words of one shape, e.g. `a small red triangle at the top left facing north, faint`.

    Args:
      weight: `[len(WORDS)]`, see `weights`.
      keep: `[4]` bool: whether size, position, orientation and brightness are mentioned.
    """
    best = lambda words: words[int(np.argmax([weight[WORDS.index(word)] for word in words]))]
    noun = f"{best(tuple(COLORS))} {best(SHAPES)}"
    text = f"a {best(SIZES)} {noun}" if keep[0] else f"a {noun}"
    if keep[1]:
        text += f" at the {best(VERTICAL)} {best(HORIZONTAL)}"
    if keep[2] and sum(weight[WORDS.index(word)] for word in HEADINGS) > 0.5:
        text += f" facing {best(HEADINGS)}"
    if keep[3]:
        text += f" , {best(BRIGHTNESS)}"
    return text
