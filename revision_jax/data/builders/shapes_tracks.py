"""Tracks of the Shapes world: where each shape is on screen, and how it moves during an event.

Units: seconds for time, pixels of a `SIZE` x `SIZE` frame for space, radians for angles (clockwise on screen,
0 = pointing up).
"""

import dataclasses

import numpy as np

from revision_jax.data.builders.shapes_drawing import SIZE
from revision_jax.data.builders.shapes_events import Actor, Event


@dataclasses.dataclass(frozen=True)
class Track:
    """One shape on screen: key times `[K]` s and states `[K, 5]` (x, y, radius, angle, alpha) between them."""

    color: str
    shape: str
    times: np.ndarray
    states: np.ndarray

    def at(self, times: np.ndarray) -> np.ndarray:
        """States `[n, 5]` at `times [n]` s, linear between key times."""
        return np.stack([np.interp(times, self.times, column) for column in self.states.T], axis=1)


def _place(rng: np.random.Generator, margin: float = 14.0) -> np.ndarray:
    return rng.uniform(margin, SIZE - margin, 2)


def event_tracks(
    event: Event, start: float, end: float, rng: np.random.Generator, gaps: tuple[float, float]
) -> list[Track]:
    """The shapes on screen for an event of `start..end` s, which may stand still in the `gaps` s before and after."""
    lead, tail = (rng.uniform(1.0, min(gap / 2 - 1, 5.0)) if rng.random() < 0.5 else 0.0 for gap in gaps)
    x, y = _place(rng)
    radius, angle = rng.uniform(9, 14), rng.uniform(0, 2 * np.pi)
    first = np.array([x, y, radius, angle, 1.0])
    last = first.copy()
    match event.action:
        case "left" | "right" | "up" | "down":
            axis, sign = int(event.action in ("up", "down")), 1 if event.action in ("right", "down") else -1
            reach = rng.uniform(15, 22)
            first[axis], last[axis] = SIZE / 2 - sign * reach, SIZE / 2 + sign * reach
        case "clockwise" | "counterclockwise":
            last[3] += (1 if event.action == "clockwise" else -1) * np.radians(rng.uniform(28, 52)) * (end - start)
        case "grow":
            first[2], last[2] = rng.uniform(6, 7.5), rng.uniform(15, 18)
        case "shrink":
            first[2], last[2] = rng.uniform(15, 18), rng.uniform(6, 7.5)
        case "appear":
            first[4], lead = 0.08, 0.0
        case "vanish":
            last[4], tail = 0.08, 0.0
        case "collide":
            return _collision_tracks(event, start, end, radius, y, rng)
    times = np.array([start - lead, start, end, end + tail])
    return [Track(event.color, event.shape, times, np.stack([first, first, last, last]))]


def _collision_tracks(
    event: Event, start: float, end: float, radius: float, y: float, rng: np.random.Generator
) -> list[Track]:
    middle, meet = (start + end) / 2, SIZE / 2 + rng.uniform(-4, 4)
    radius = min(radius, 10.0)
    side = rng.choice([-1, 1])
    tracks = []
    for (color, shape), sign in zip([(event.color, event.shape), event.other], [side, -side], strict=True):
        angle = rng.uniform(0, 2 * np.pi)
        far, near = meet + sign * 20, meet + sign * radius * 0.9
        states = np.array([[x, y, radius, angle, 1.0] for x in (far, near, far)])
        tracks.append(Track(color, shape, np.array([start, middle, end]), states))
    return tracks


def still_track(
    start: float, end: float, actor: Actor, rng: np.random.Generator, radius: tuple[float, float] = (7, 15)
) -> Track:
    """A shape that stands still from `start` to `end` s at a random place, its radius drawn from a range (pixels)."""
    state = np.array([*_place(rng), rng.uniform(*radius), rng.uniform(0, 2 * np.pi), 1.0])
    return Track(*actor, np.array([start, end]), np.stack([state, state]))
