"""Events of the Shapes world: who does what, in which words, and which events are near misses of each other."""

import dataclasses

import numpy as np

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
CAST = 14  # actors of a video


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


def choose_cast(rng: np.random.Generator) -> list[Actor]:
    """The few (color, shape) pairs that act in a video: each is seen many times, doing different things."""
    everyone = [(color, shape) for color in COLORS for shape in SHAPES]
    return [everyone[i] for i in rng.permutation(len(everyone))[:CAST]]


def _random_event(cast: list[Actor], rng: np.random.Generator) -> Event:
    action = str(rng.choice(ACTIONS))
    able = [actor for actor in cast if actor[1] in TURNABLE] if action.endswith("clockwise") else cast
    actor = able[rng.integers(len(able))]
    return Event(*actor, action, cast[rng.integers(len(cast))] if action == "collide" else None)


def event_list(count: int, cast: list[Actor], rng: np.random.Generator) -> list[Event]:
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


def separate(events: list[Event], starts: np.ndarray, apart_s: float, rng: np.random.Generator) -> list[Event]:
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
