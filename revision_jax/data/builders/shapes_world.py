"""The Shapes world: hour-long videos of moving shapes, their events and their queries, from a seed.

A video is a timeline of short events (4 to 20 s: a shape moves, spins, grows, fades, collides) of a small cast among
long background (changing scenes, shapes that stand still). Events come in families of near misses: the same shape in
another colour, the same action in the other direction. Finding an event therefore needs the meaning of its
sentence, not only its words for colour and shape. Everything is a function of `(split, index, domain)`.

Units: seconds for time, pixels of a `SIZE` x `SIZE` frame for space, radians for angles (clockwise on screen,
0 = pointing up).
"""

import dataclasses
import functools
import hashlib

import numpy as np

from revision_jax.data.annotations.queries import Query

VERSION = 2  # part of every data set's fingerprint: raise it when a seed would give another video
SIZE = 64
FPS = 5.0  # of the video files; events begin and end on frames
COLORS = {
    "red": (225, 45, 45), "orange": (245, 145, 30), "yellow": (240, 230, 60), "green": (50, 190, 70),
    "blue": (60, 100, 240), "purple": (165, 60, 205), "white": (245, 245, 245),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "arrow", "heart", "moon")
TURNABLE = ("triangle", "arrow", "heart", "moon")  # shapes whose orientation can be seen
OPPOSITE = {
    "left": "right", "right": "left", "up": "down", "down": "up", "clockwise": "counterclockwise",
    "counterclockwise": "clockwise", "grow": "shrink", "shrink": "grow", "appear": "vanish", "vanish": "appear",
}  # fmt: skip
ACTIONS = (*OPPOSITE, "collide")
TEMPLATES = {
    "left": ("{a} moving to the left", "{a} slides left", "{a} travels leftward", "{a} moves from right to left"),
    "right": ("{a} moving to the right", "{a} slides right", "{a} travels rightward", "{a} moves from left to right"),
    "up": ("{a} moving up", "{a} rises", "{a} travels upward", "{a} moves from bottom to top"),
    "down": ("{a} moving down", "{a} sinks", "{a} travels downward", "{a} moves from top to bottom"),
    "clockwise": ("{a} spinning clockwise", "{a} turns clockwise", "{a} rotates clockwise on the spot"),
    "counterclockwise": (
        "{a} spinning counterclockwise", "{a} turns counterclockwise", "{a} rotates counterclockwise on the spot",
    ),
    "grow": ("{a} growing", "{a} gets bigger", "{a} becomes larger"),
    "shrink": ("{a} shrinking", "{a} gets smaller", "{a} becomes smaller and smaller"),
    "appear": ("{a} appearing", "{a} fades in", "{a} slowly becomes visible"),
    "vanish": ("{a} vanishing", "{a} fades out", "{a} slowly disappears"),
    "collide": ("{a} colliding with {b}", "{a} bumps into {b}", "{a} hits {b} and bounces back"),
}  # fmt: skip
CAST = 14
DOMAINS = ("day", "night", "crowded", "noisy")
SPLITS = ("pretrain", "train", "val", "test")


Actor = tuple[str, str]  # color, shape


def noun_phrase(*words: str) -> str:
    """`a red triangle`, `an orange moon`."""
    phrase = " ".join(words)
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


@dataclasses.dataclass(frozen=True, order=True)
class Event:
    """What happens: an actor (colour, shape), an action and, for a collision, the other actor."""

    color: str
    shape: str
    action: str
    other: Actor | None = None

    def sentence(self, template: int) -> str:
        """The event in words; `template` chooses the wording."""
        forms = TEMPLATES[self.action]
        other = noun_phrase(*self.other) if self.other else ""
        return forms[template % len(forms)].format(a=noun_phrase(self.color, self.shape), b=other)

    def near_misses(self) -> list["Event"]:
        """Events that differ in one thing: the colour, or the direction."""
        misses = [dataclasses.replace(self, color=c) for c in COLORS if c != self.color]
        if self.action in OPPOSITE:
            misses.append(dataclasses.replace(self, action=OPPOSITE[self.action]))
        return misses

    @property
    def actors(self) -> set[Actor]:
        return {(self.color, self.shape)} | ({self.other} if self.other else set())

    def resembles(self, other: "Event") -> bool:
        """Whether `other` is easily taken for this: a near miss, or an actor of this doing something else."""
        return other != self and (other in self.near_misses() or bool(self.actors & other.actors))


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


@functools.cache
def _distance_field(shape: str, grid: int = 96) -> np.ndarray:
    """Signed distance `[grid, grid]` to a shape's outline in units of its radius, positive inside, over [-1.5, 1.5]."""
    from scipy.ndimage import distance_transform_edt

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
    return ((distance_transform_edt(inside) - distance_transform_edt(~inside)) * cell).astype(np.float32)


def draw(canvas: np.ndarray, color, shape: str, states: np.ndarray) -> None:
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


def _place(rng, margin=14.0):
    return rng.uniform(margin, SIZE - margin, 2)


def _event_tracks(event: Event, start: float, end: float, rng: np.random.Generator, gaps: tuple) -> list[Track]:
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


def _collision_tracks(event, start, end, radius, y, rng) -> list[Track]:
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


def _still_track(start: float, end: float, actor: Actor, rng: np.random.Generator, radius=(7, 15)) -> Track:
    state = np.array([*_place(rng), rng.uniform(*radius), rng.uniform(0, 2 * np.pi), 1.0])
    return Track(*actor, np.array([start, end]), np.stack([state, state]))


def _choose_cast(rng: np.random.Generator) -> list[Actor]:
    """The few (color, shape) pairs that act in a video: each is seen many times, doing different things."""
    everyone = [(color, shape) for color in COLORS for shape in SHAPES]
    return [everyone[i] for i in rng.permutation(len(everyone))[:CAST]]


def _random_event(cast: list[Actor], rng: np.random.Generator) -> Event:
    action = str(rng.choice(ACTIONS))
    able = [actor for actor in cast if actor[1] in TURNABLE] if action.endswith("clockwise") else cast
    actor = able[rng.integers(len(able))]
    return Event(*actor, action, cast[rng.integers(len(cast))] if action == "collide" else None)


def _event_list(count: int, cast: list[Actor], rng: np.random.Generator) -> list[Event]:
    """`count` events in families: one, its near misses, and now and then a repetition of itself."""
    events: list[Event] = []
    while len(events) < count:
        event = _random_event(cast, rng)
        if event.other == (event.color, event.shape):
            continue
        misses = [miss for miss in event.near_misses() if (miss.color, miss.shape) in cast]
        family = [event, *(misses[i] for i in rng.permutation(len(misses))[:2])]
        if rng.random() < 0.12:
            family += [event] * int(rng.integers(1, 3))
        events += [member for member in family if member not in events or member is event]
    events = events[:count]
    return [events[i] for i in rng.permutation(count)]


@dataclasses.dataclass(frozen=True)
class ShapesVideo:
    """A video as a timeline: `events` with their spans in seconds, the shapes on screen, the scenes behind them."""

    video_id: str
    duration_s: float
    domain: str
    seed: int
    events: list[tuple[Event, float, float]]
    tracks: list[Track]
    scene_starts: np.ndarray  # [scenes] s
    scenes: np.ndarray  # [scenes, SIZE, SIZE, 3] float32

    def frames(self, times: np.ndarray) -> np.ndarray:
        """Pictures `[n, SIZE, SIZE, 3]` uint8 at `times [n]` s."""
        times = np.asarray(times, np.float64)
        canvas = self.scenes[np.searchsorted(self.scene_starts, times, side="right") - 1]
        for track in self._near(times.min(), times.max()):
            shown = np.flatnonzero((times >= track.times[0]) & (times < track.times[-1]))
            if len(shown):
                pictures = canvas[shown]
                draw(pictures, COLORS[track.color], track.shape, track.at(times[shown]))
                canvas[shown] = pictures
        if self.domain == "night":
            canvas *= 0.45
        noise = _noise_bank(30.0 if self.domain == "noisy" else 4.0)
        pick = (np.round(times * FPS).astype(np.int64) * 7919 + self.seed) % len(noise)
        return np.clip(canvas + noise[pick], 0, 255).astype(np.uint8)

    def captions(self, times: np.ndarray) -> list[str]:
        """What is on screen at each of `times [n]` s: `a red circle at the top left`, `nothing`, joined by `and`."""
        shown: list[list[str]] = [[] for _ in times]
        for track in self.tracks:
            for number in np.flatnonzero((times >= track.times[0]) & (times < track.times[-1])):
                x, y = track.at(times[number : number + 1])[0, :2]
                where = (
                    f"{('top', 'middle', 'bottom')[int(3 * y / SIZE)]} {('left', 'center', 'right')[int(3 * x / SIZE)]}"
                )
                shown[number].append(f"{noun_phrase(track.color, track.shape)} at the {where}")
        return [" and ".join(words) or "nothing" for words in shown]

    def _near(self, start, end):
        return [track for track in self.tracks if track.times[0] <= end and track.times[-1] > start]

    def queries(self, present: int | None = None, absent: int = 0) -> list[Query]:
        """Queries about this video: every event (or `present` of them), and `absent` ones that never happen.

        A query's `moments` are all times at which it happens; its `distractors` are events that resemble it.
        """
        rng = np.random.default_rng([self.seed, 7])
        spans: dict[Event, list[tuple[float, float]]] = {}
        for event, start, end in self.events:
            spans.setdefault(event, []).append((start, end))
        chosen = [list(spans)[i] for i in rng.permutation(len(spans))[:present]]
        candidates = sorted({miss for event in spans for miss in event.near_misses()} - set(spans), key=repr)
        if absent > len(candidates):
            found = f"{len(candidates)} near misses that never happen"
            raise ValueError(f"{self.video_id} has {found}; {absent} were asked for. Ask for fewer, or a longer video.")
        chosen += [candidates[i] for i in rng.permutation(len(candidates))[:absent]]
        queries = []
        for number, event in enumerate(chosen):
            near = sorted(span for other in spans if event.resembles(other) for span in spans[other])
            queries.append(
                Query(
                    query_id=f"{self.video_id}/{number:03d}",
                    video_id=self.video_id,
                    sentence=event.sentence(int(rng.integers(12))),
                    moments=tuple(sorted(spans.get(event, []))),
                    distractors=tuple(near),
                )
            )
        return queries


@functools.cache
def _noise_bank(sigma: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, sigma, (37, SIZE, SIZE, 1)).astype(np.float32)


def _separate(events: list[Event], starts: np.ndarray, apart_s: float, rng: np.random.Generator) -> list[Event]:
    """Reorders events until repetitions of one event are `apart_s` apart (a window never shows two)."""
    events = list(events)
    for _ in range(50):
        last: dict[Event, float] = {}
        clash = None
        for i, event in enumerate(events):
            if event in last and starts[i] - last[event] < apart_s:
                clash = i
                break
            last[event] = starts[i]
        if clash is None:
            return events
        j = int(rng.integers(len(events)))
        events[clash], events[j] = events[j], events[clash]
    # Too dense to separate (a very short video): keep the first of each.
    return list(dict.fromkeys(events))


def make_video(split: str, index: int, *, duration_s: float = 3600.0, domain: str = "day") -> ShapesVideo:
    """The video `index` of a split: the same arguments give the same video, everywhere.

    Raises:
      ValueError: an unknown split or domain.
    """
    if split not in SPLITS or domain not in DOMAINS:
        raise ValueError(f"unknown split {split!r} or domain {domain!r}; expected one of {SPLITS} and {DOMAINS}.")
    video_id = f"shapes-{split}-{domain}-{int(duration_s)}s-{index:04d}"
    seed = int.from_bytes(hashlib.sha256(f"{VERSION}/{video_id}".encode()).digest()[:4], "little")
    rng = np.random.default_rng(seed)
    cast = _choose_cast(rng)
    anyone = lambda: cast[rng.integers(len(cast))]
    slots, tracks = [], []
    gap, now = 7.0, rng.uniform(7, 15)
    while True:  # alternate event and background until the video is full
        start, length = round(now * FPS) / FPS, round(rng.uniform(4, 20) * FPS) / FPS
        before, gap = gap, rng.uniform(7, 38)
        if start + length + gap > duration_s:
            break
        slots.append((start, start + length, (before, gap)))
        now = start + length + gap
    starts = np.array([slot[0] for slot in slots])
    events = _separate(_event_list(len(slots), cast, rng), starts, 160.0, rng)
    timeline = []
    for event, (start, end, gaps) in zip(events, slots, strict=False):
        timeline.append((event, start, end))
        tracks += _event_tracks(event, start, end, rng, gaps)
        gap = gaps[1]
        if gap > 16 and rng.random() < 0.7:  # a shape that stands still between two events
            still = end + gap / 2
            tracks.append(_still_track(still - 2.0, still + rng.uniform(0.5, 1) * (gap / 2 - 5.5), anyone(), rng))
    if domain == "crowded":
        for now in np.arange(0, duration_s, 15.0):
            tracks += [_still_track(now, now + rng.uniform(10, 25), anyone(), rng, radius=(6, 8)) for _ in range(2)]
    scene_starts = np.append(0.0, np.cumsum(rng.uniform(120, 420, int(duration_s / 120) + 1)))
    scenes = np.stack([backdrop(rng) for _ in scene_starts])
    return ShapesVideo(video_id, duration_s, domain, seed, timeline, tracks, scene_starts, scenes)
