"""What a symbolic video shows: segments of frames with one shape each, which stands still or changes.

A frame is its word weights (`attributes.weights`). `lookup_questions` asks about such videos.
"""

import dataclasses

import numpy as np

from revision_jax.data.builders.shapes_drawing import SIZE
from revision_jax.data.builders.shapes_events import COLORS, OPPOSITE, SHAPES, TEMPLATES, TURNABLE
from revision_jax.pretrain import attributes

CHANGES = (
    "still", "westward", "eastward", "northward", "southward", "dextral", "sinistral", "swelling",
    "dwindling", "emerging", "fading",
)  # fmt: skip
# Other wordings of each change, those of the world. Before stage 1 an LLM knows these words, but only its own form of
# question.
WORDINGS = ((), *([form.removeprefix("{a} ") for form in TEMPLATES[action]] for action in OPPOSITE))
WORDED = 0.7  # share of the questions that name changes so
TURNS = ("dextral", "sinistral")
_COLORS, _SHAPES = list(COLORS), list(SHAPES)
_TURNABLE = [SHAPES.index(shape) for shape in TURNABLE]


@dataclasses.dataclass(frozen=True)
class Segment:
    """`length` frames of one thing; `change` is an index into CHANGES; color -1 shows nothing."""

    length: int
    color: int
    shape: int
    change: int

    def keywords(self, form: int, rng: np.random.Generator) -> str:
        """Its words: color, shape, change (form 0), color, shape (1), shape, change (2) or color, change (3)."""
        change = CHANGES[self.change]
        if self.change and rng.random() < WORDED:
            change = WORDINGS[self.change][rng.integers(len(WORDINGS[self.change]))]
        words = [_COLORS[self.color], _SHAPES[self.shape], change]
        return " ".join([words, words[:2], words[1:], [words[0], words[2]]][form])

    def matches(self, other: "Segment", form: int) -> bool:
        """Whether `other` fits the keywords of `self` in this form."""
        if other.color < 0:
            return False
        same = (self.color == other.color, self.shape == other.shape, self.change == other.change)
        return all([same, same[:2], same[1:], (same[0], same[2])][form])


def random_actor(rng: np.random.Generator) -> tuple[int, int]:
    """(color, shape), indices into COLORS and SHAPES."""
    return int(rng.integers(len(COLORS))), int(rng.integers(len(SHAPES)))


def random_change(shape: int, length: int, rng: np.random.Generator) -> int:
    """Index into CHANGES; a segment under 4 frames stands still, and only shapes with an orientation turn."""
    able = [i for i, change in enumerate(CHANGES) if shape in _TURNABLE or change not in TURNS]
    return able[rng.integers(len(able))] if length >= 4 else 0


def states_of(segment: Segment, rng: np.random.Generator) -> np.ndarray:
    """`[length, 5]` states of a segment, with the world's ranges of speed and size."""
    x, y = rng.uniform(10, SIZE - 10, 2)
    first = np.array([x, y, rng.uniform(6, 14), rng.uniform(0, 2 * np.pi), 1.0])
    last = first.copy()
    match CHANGES[segment.change]:
        case "westward" | "eastward" | "northward" | "southward" as way:
            axis, sign = (0 if way in ("westward", "eastward") else 1), (1 if way in ("eastward", "southward") else -1)
            reach = rng.uniform(13, 22)
            first[axis], last[axis] = SIZE / 2 - sign * reach, SIZE / 2 + sign * reach
        case way if way in TURNS:
            last[3] += (1 if way == TURNS[0] else -1) * np.radians(rng.uniform(25, 55)) * segment.length
        case "swelling":
            first[2], last[2] = rng.uniform(4, 6), rng.uniform(13, 17)
        case "dwindling":
            first[2], last[2] = rng.uniform(13, 17), rng.uniform(4, 6)
        case "emerging":
            first[4] = 0.05
        case "fading":
            last[4] = 0.05
    return np.linspace(first, last, segment.length)


def segments_of(frames: int, kind: str, rng: np.random.Generator) -> list[Segment]:
    """Segments that fill `frames` frames, of a kind of CURRICULUM; some of them show nothing.

    They share a small cast of shapes, so that they are near misses of each other.
    """
    usual = (1, 4) if frames <= 8 else (2, min(20, frames // 2))
    low, high = {"change": (4, max(6, frames // 4)), "named": (1, 3)}.get(kind, usual)
    empty = 0.1 if kind in ("change", "named") else 0.3
    cast = [random_actor(rng) for _ in range(1 if kind == "change" else rng.integers(1, 6))]
    share = {"change": 1.0, "named": 1.0}.get(kind, 0.85)
    segments: list[Segment] = []
    left = frames
    while left > 0:
        length = min(left, int(rng.integers(low, high + 1)))
        color, shape = cast[rng.integers(len(cast))] if rng.random() < share else random_actor(rng)
        change = 0 if kind == "plain" else random_change(shape, 4 if kind == "named" else length, rng)
        segments.append(Segment(length, -1 if rng.random() < empty else color, shape, change))
        left -= length
    return segments


def shown_by(segments: list[Segment], kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Word weights `[F, A]` float32, and the index into CHANGES of what changes in each frame, `[F]` int32.

    The index is -1 where a frame shows nothing, and in the first two frames of a segment, where a change cannot be seen
    yet (kind "named" says it in a word from the start).
    """
    starts = np.cumsum([0, *(segment.length for segment in segments)])
    rows, changes = [], np.full(starts[-1], -1, np.int32)
    for segment, start in zip(segments, starts[:-1], strict=True):
        if segment.color < 0:
            rows.append(np.tile(attributes.nothing(), (segment.length, 1)))
            continue
        changes[start + (0 if kind == "named" else 2) : start + segment.length] = segment.change
        color, shape = (np.full(segment.length, value) for value in (segment.color, segment.shape))
        rows.append(attributes.weights(color, shape, states_of(segment, rng)))
    return np.concatenate(rows), changes if kind != "plain" else np.full_like(changes, -1)
