"""The Shapes world: hour-long videos of moving shapes, their events and their queries, from a seed.

A video is a timeline of short events (4 to 20 s: a shape moves, spins, grows, fades, collides) of a small cast among
long background (changing scenes, shapes that stand still). Events come in families of near misses: the same shape in
another colour, the same action in the other direction. Finding an event therefore needs the meaning of its
sentence, not only its words for colour and shape. Everything is a function of `(split, index, domain)`.

Units: seconds for time, pixels of a `SIZE` x `SIZE` frame for space, radians for angles (clockwise on screen,
0 = pointing up).
"""

import dataclasses
import hashlib

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.data.builders.shapes_drawing import SIZE, backdrop, draw, noise_bank
from revision_jax.data.builders.shapes_events import COLORS, Event, choose_cast, event_list, noun_phrase, separate
from revision_jax.data.builders.shapes_tracks import Track, event_tracks, still_track

VERSION = 2  # part of every data set's fingerprint: raise it when a seed would give another video
FPS = 5.0  # of the video files; events begin and end on frames
DOMAINS = ("day", "night", "crowded", "noisy")
SPLITS = ("pretrain", "train", "val", "test")


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
        noise = noise_bank(30.0 if self.domain == "noisy" else 4.0)
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

    def _near(self, start: float, end: float) -> list[Track]:
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
    cast = choose_cast(rng)
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
    events = separate(event_list(len(slots), cast, rng), starts, 160.0, rng)
    timeline = []
    for event, (start, end, gaps) in zip(events, slots, strict=False):
        timeline.append((event, start, end))
        tracks += event_tracks(event, start, end, rng, gaps)
        gap = gaps[1]
        if gap > 16 and rng.random() < 0.7:  # a shape that stands still between two events
            still = end + gap / 2
            tracks.append(still_track(still - 2.0, still + rng.uniform(0.5, 1) * (gap / 2 - 5.5), anyone(), rng))
    if domain == "crowded":
        for now in np.arange(0, duration_s, 15.0):
            tracks += [still_track(now, now + rng.uniform(10, 25), anyone(), rng, radius=(6, 8)) for _ in range(2)]
    scene_starts = np.append(0.0, np.cumsum(rng.uniform(120, 420, int(duration_s / 120) + 1)))
    scenes = np.stack([backdrop(rng) for _ in scene_starts])
    return ShapesVideo(video_id, duration_s, domain, seed, timeline, tracks, scene_starts, scenes)
