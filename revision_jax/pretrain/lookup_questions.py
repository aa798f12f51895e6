"""Questions about symbolic videos, and the videos made for them; `lookup_lm` says what each kind is for."""

import dataclasses
from typing import NamedTuple

import numpy as np

from revision_jax import prompts
from revision_jax.data.builders.shapes_drawing import SIZE
from revision_jax.data.builders.shapes_events import COLORS, SHAPES, noun_phrase
from revision_jax.pretrain import attributes
from revision_jax.pretrain.lookup_world import (
    CHANGES,
    UNSEEN,
    Segment,
    random_actor,
    random_change,
    random_other,
    segments_of,
    shown_by,
)

LOOKUPS = 8  # questions a video: they share its cost, and do not see each other
KINDS = {"Find": 0.3, "In": 0.06, "Does": 0.54, "Say": 0.04, "": 0.06}  # shares of the questions
_FEW_KINDS = (0.4, 0, 0.6, 0, 0)  # the same for plain and named videos
_FORMS = np.array([0.55, 0.2, 0.125, 0.125])  # weights of the forms of keywords
_COLORS, _SHAPES = list(COLORS), list(SHAPES)


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about `keywords`.

    Attributes:
      kind: a key of KINDS, or "Describe" for a caption.
      keywords: what is asked about; for "Say" what is to be said, for "Describe" the caption.
      span: frames (s, e) where it is shown; None if nowhere.
      shown: [F] int32, 1 for the frames that show it, 0 for others, -1 where it cannot be seen (yet); None if it is
        nothing that frames show.
    """

    kind: str
    keywords: str
    span: tuple[int, int] | None
    shown: np.ndarray | None = None

    @property
    def answer(self) -> str:
        match self.kind:
            case "Find":
                return prompts.span_answer(*self.span)
            case "In":
                return prompts.group_answer(*self.span)
            case "Does":
                return prompts.presence_answer(self.span is not None)
            case "":
                return prompts.NOT_PRESENT
        return self.keywords


class Video(NamedTuple):
    """A symbolic video of F frames and what is asked about it.

    Attributes:
      weights: `[F, A]` float32, word weights.
      changes: `[F]` int32, index into CHANGES of what changes in a frame; -1 where it cannot be seen (yet).
      yes: `[F]` bool, the frames that say `Yes`, of a video whose frames say `Yes` or `No`; None in all others.
      questions: LOOKUPS of them, one caption, or none.
    """

    weights: np.ndarray
    changes: np.ndarray
    yes: np.ndarray | None
    questions: list[Question]


def absent_keywords(segments: list[Segment], kind: str, rng: np.random.Generator) -> str | None:
    """Keywords that fit no segment but differ from one in a single thing; None if a few tries find none.

    That thing is mostly what another segment shows (a red circle is there, and a blue one grows: "red circle growing"),
    or the opposite of what is seen, or what something collides with. With easier ones it would be enough to find the
    words one by one.
    """
    shown = [s for s in segments if s.color >= 0]
    for _ in range(8):
        near = shown[rng.integers(len(shown))]
        donor = shown[rng.integers(len(shown))]
        if rng.random() < 0.3:
            color, shape = random_actor(rng)
            change = random_change(near.shape, near.length, rng)
            donor = Segment(near.length, color, shape, change, random_other(change, [], (color, shape), rng))
        if near.other:
            opposite = {"other": donor.things[-1]}
        else:
            opposite = {"change": (near.change - 1 ^ 1) + 1 if near.change else 0}
        changed = {"change": donor.change, "other": donor.other}
        others = [{"color": donor.color}, {"shape": donor.shape}, changed, opposite]
        chance, forms = ((0.5, 0.5), (0, 1)) if kind == "plain" else ((0.15, 0.15, 0.5, 0.2), (0.55, 0.15, 0.15, 0.15))
        near = dataclasses.replace(near, **others[rng.choice(len(chance), p=chance)])
        form = int(rng.choice(len(forms), p=forms))
        if not any(near.matches(s, form) for s in shown):
            return near.keywords(form, rng)
    return None


def make_video(frames: int, kind: str, rng: np.random.Generator) -> Video:
    """A video of `frames` frames: "told", "described" (one frame), or a kind of CURRICULUM."""
    if kind == "described":
        return described(rng)
    if kind == "seen":
        some = str(rng.choice(("change", "turning")))
        return Video(*shown_by(segments_of(frames, some, rng), some, rng), None, [])
    return told(frames, rng) if kind == "told" else sample(frames, kind, rng)


def sample(frames: int, kind: str, rng: np.random.Generator) -> Video:
    """A video of segments and LOOKUPS questions of KINDS; about plain and named videos only `Find` and `Does`."""
    lookups: list[tuple[int, int]] = []  # (segment, form of keywords) that fit this segment alone
    while not lookups:
        segments = segments_of(frames, kind, rng)
        for i, target in enumerate(segments):
            for form in (1,) if kind == "plain" else range(4):
                if target.color >= 0 and sum(target.matches(s, form) for s in segments) == 1:
                    lookups.append((i, form))
    weights, changes = shown_by(segments, kind, rng)
    chance = _FORMS[[form for _, form in lookups]]
    chosen = rng.choice(len(lookups), LOOKUPS, p=chance / chance.sum())
    questions = [_ask(segments, *lookups[k], kind, rng) for k in chosen]
    return Video(weights, changes, None, questions)


def _ask(segments: list[Segment], target: int, form: int, kind: str, rng: np.random.Generator) -> Question:
    """A question about a segment, in a form of keywords that fits no other one."""
    frames, start = sum(s.length for s in segments), sum(s.length for s in segments[:target])
    stop = start + segments[target].length
    shown = np.zeros(frames, np.int32)
    shown[start:stop] = 1
    if form != 1 and kind != "named":
        shown[start : min(start + UNSEEN, stop)] = -1
    asked = str(rng.choice(list(KINDS), p=_FEW_KINDS if kind in ("plain", "named") else tuple(KINDS.values())))
    question = Question(asked, segments[target].keywords(form, rng), (start, min(stop, frames - 1)), shown)
    if asked == "Say":
        words = rng.choice([prompts.NOT_PRESENT, prompts.video_answer(rng.integers(frames))])
        return Question(asked, words, None)
    if asked == "Does" and rng.random() < 0.5 and (keywords := absent_keywords(segments, kind, rng)):
        return Question(asked, keywords, None, np.zeros_like(shown))
    return question


def told(frames: int, rng: np.random.Generator) -> Video:
    """A video whose frames show nothing: each only says `Yes` or `No`."""
    first = int(rng.integers(frames))
    span = first, min(first + int(rng.integers(1, 5)), frames)
    yes = np.zeros(frames, bool)
    yes[slice(*span)] = frames > 1 or rng.random() < 0.5
    questions = []
    for _ in range(LOOKUPS):
        (color, shape), change = random_actor(rng), int(rng.integers(1, len(CHANGES)))
        other = random_other(change, [], (color, shape), rng)
        keywords = Segment(0, color, shape, change, other).keywords(0, rng)
        kind = "Does" if frames == 1 or rng.random() < 0.2 else "In"
        questions.append(Question(kind, keywords, span if yes.any() else None))
    weights = np.zeros((frames, len(attributes.WORDS)), np.float32)
    return Video(weights, np.full(frames, -1, np.int32), yes, questions)


def described(rng: np.random.Generator) -> Video:
    """A frame with its caption as the world words it: one shape somewhere, or nothing."""
    weights, caption = attributes.nothing()[None], attributes.NOTHING
    if rng.random() >= 0.2:
        (color, shape), (x, y) = random_actor(rng), rng.uniform(8, SIZE - 8, 2)
        state = np.array([[x, y, rng.uniform(6, 17), rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 1)]])
        where = f"{attributes.VERTICAL[int(3 * y / SIZE)]} {attributes.HORIZONTAL[int(3 * x / SIZE)]}"
        weights = attributes.weights(np.array([color]), np.array([shape]), state)
        caption = f"{noun_phrase(_COLORS[color], _SHAPES[shape])} at the {where}"
    return Video(weights, np.full(1, -1, np.int32), None, [Question("Describe", caption, None)])
