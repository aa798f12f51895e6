"""What a symbolic video shows: segments of frames. Each has one shape, still or changing, or two that collide.

A frame is its word weights (`attributes.weights`). `lookup_questions` asks about such videos.
"""

import dataclasses

import numpy as np

from revision_jax.data.builders.shapes_drawing import SIZE
from revision_jax.data.builders.shapes_events import COLORS, OPPOSITE, SHAPES, TEMPLATES, TURNABLE
from revision_jax.pretrain import attributes

CHANGES = (
    "still", "westward", "eastward", "northward", "southward", "dextral", "sinistral", "swelling",
    "dwindling", "emerging", "fading", "colliding",
)  # fmt: skip
COLLIDING = CHANGES.index("colliding")
UNSEEN = 2  # frames at the start of a segment that cannot show yet what changes
# Other wordings of each change, those of the world. Before stage 1 an LLM knows these words, but only its own form of
# question.
WORDINGS = ((), *([form.removeprefix("{a} ") for form in TEMPLATES[action]] for action in (*OPPOSITE, "collide")))
WORDED = 0.7  # share of the questions that name changes so
TURNS = ("dextral", "sinistral")
_COLORS, _SHAPES = list(COLORS), list(SHAPES)
_ANY = list(range(len(SHAPES)))
_TURNABLE = [SHAPES.index(shape) for shape in TURNABLE]

Thing = tuple[int, int]  # color, shape: indices into COLORS and SHAPES


@dataclasses.dataclass(frozen=True)
class Segment:
    """`length` frames of one thing, or of two that collide.

    `change` is an index into CHANGES; color -1 shows nothing; `other` is what it collides with, None of other changes.
    """

    length: int
    color: int
    shape: int
    change: int
    other: Thing | None = None

    @property
    def things(self) -> list[Thing]:
        """All that is shown, one or two."""
        return [(self.color, self.shape), *([self.other] if self.other else [])]

    def keywords(self, form: int, rng: np.random.Generator) -> str:
        """Its words: color, shape, change (form 0), color, shape (1), shape, change (2) or color, change (3)."""
        names = [_name(thing, form) for thing in self.things]
        if form == 1:
            return names[0]
        change = f"{CHANGES[self.change]} {{b}}" if self.other else CHANGES[self.change]
        if self.change and rng.random() < WORDED:
            change = WORDINGS[self.change][rng.integers(len(WORDINGS[self.change]))]
        return f"{names[0]} {change.format(b=names[-1])}"

    def matches(self, other: "Segment", form: int) -> bool:
        """Whether `other` fits the keywords of `self` in this form.

        Of two things only the words can be seen, and not which color is of which shape, or who runs into whom.
        """
        if other.color < 0:
            return False
        (colors, shapes), (shown_colors, shown_shapes) = (map(sorted, zip(*s.things)) for s in (self, other))
        if form == 1:
            return self.color in shown_colors and self.shape in shown_shapes
        same = (form == 2 or colors == shown_colors, form == 3 or shapes == shown_shapes)
        return self.change == other.change and all(same)


def _name(thing: Thing, form: int) -> str:
    """A thing's words in a form of keywords: `red circle` (0 and 1), `circle` (2), `red` (3)."""
    color, shape = _COLORS[thing[0]], _SHAPES[thing[1]]
    return {2: shape, 3: color}.get(form, f"{color} {shape}")


def random_actor(rng: np.random.Generator, shapes: list[int] = _ANY) -> Thing:
    """Any thing of these shapes."""
    return int(rng.integers(len(COLORS))), shapes[rng.integers(len(shapes))]


def random_change(shape: int, length: int, rng: np.random.Generator, among: tuple[str, ...] = CHANGES) -> int:
    """Index into CHANGES; in a segment under 4 frames all stands still, and only shapes with an orientation turn."""
    able = [CHANGES.index(change) for change in among if shape in _TURNABLE or change not in TURNS]
    return able[rng.integers(len(able))] if length >= 4 else 0


def random_other(change: int, cast: list[Thing], thing: Thing, rng: np.random.Generator) -> Thing | None:
    """What a thing of the cast collides with, another one; None if the change is no collision."""
    if change != COLLIDING:
        return None
    others = [one for one in cast if one != thing]
    return others[rng.integers(len(others))] if others else ((thing[0] + 1) % len(_COLORS), random_actor(rng)[1])


def states_of(segment: Segment, rng: np.random.Generator) -> list[np.ndarray]:
    """States `[length, 5]` of each thing of a segment, with the world's ranges of speed and size."""
    if segment.change == COLLIDING:
        return _collision(segment.length, rng)
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
    return [np.linspace(first, last, segment.length)]


def _collision(length: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Two things side by side that meet half-way through and bounce back."""
    y, radius = rng.uniform(10, SIZE - 10), rng.uniform(7, 10)
    meet, side = SIZE / 2 + rng.uniform(-4, 4), rng.choice([-1, 1])
    away = np.interp(np.linspace(0, 1, length), (0, 0.5, 1), (20, 0.9 * radius, 20))
    states = np.tile([0.0, y, radius, 0.0, 1.0], (2, length, 1))
    states[:, :, 0] = meet + np.array([side, -side])[:, None] * away
    states[:, :, 3] = rng.uniform(0, 2 * np.pi, (2, 1))
    return list(states)


def segments_of(frames: int, kind: str, rng: np.random.Generator) -> list[Segment]:
    """Segments that fill `frames` frames, of a kind of CURRICULUM, or "turning"; some of them show nothing.

    They share a small cast of shapes, so that they are near misses of each other. In "turning" there is one, which
    turns or stands still.
    """
    usual = (1, 4) if frames <= 8 else (2, min(20, frames // 2))
    alone = kind in ("change", "turning")
    low, high = (4, max(6, frames // 4)) if alone else (1, 3) if kind == "named" else usual
    empty, share = (0.1, 1.0) if alone or kind == "named" else (0.3, 0.85)
    shapes, among = (_TURNABLE, ("still", *TURNS)) if kind == "turning" else (_ANY, CHANGES)
    cast = [random_actor(rng, shapes) for _ in range(1 if alone else rng.integers(1, 6))]
    segments: list[Segment] = []
    left = frames
    while left > 0:
        length = min(left, int(rng.integers(low, high + 1)))
        color, shape = cast[rng.integers(len(cast))] if rng.random() < share else random_actor(rng)
        change = 0 if kind == "plain" else random_change(shape, 4 if kind == "named" else length, rng, among)
        other = random_other(change, cast, (color, shape), rng)
        nothing = rng.random() < empty
        segments.append(Segment(length, -1, shape, change) if nothing else Segment(length, color, shape, change, other))
        left -= length
    return segments


def shown_by(segments: list[Segment], kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Word weights `[F, A]` float32, and the index into CHANGES of what changes in each frame, `[F]` int32.

    The index is -1 where a frame shows nothing, and in the first UNSEEN frames of a segment (kind "named" says in a
    word what changes, from the start).
    """
    starts = np.cumsum([0, *(segment.length for segment in segments)])
    rows, changes = [], np.full(starts[-1], -1, np.int32)
    for segment, start in zip(segments, starts[:-1], strict=True):
        if segment.color < 0:
            rows.append(np.tile(attributes.nothing(), (segment.length, 1)))
            continue
        changes[start + (0 if kind == "named" else UNSEEN) : start + segment.length] = segment.change
        described = [
            attributes.weights(np.full(segment.length, color), np.full(segment.length, shape), states)
            for (color, shape), states in zip(segment.things, states_of(segment, rng), strict=True)
        ]
        rows.append(sum(described))
    return np.concatenate(rows), changes if kind != "plain" else np.full_like(changes, -1)
