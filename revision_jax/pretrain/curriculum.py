"""Which videos the tiny LLM sees when: a curriculum over kinds and numbers of frames, driven by a running score."""

from typing import NamedTuple

import numpy as np

from revision_jax.pretrain.lookup_batches import LOOKUP_TOKENS
from revision_jax.pretrain.lookup_questions import LOOKUPS

# (frames, kind of video, the running score that ends the level). What is matched comes first, and what is seen second:
# "plain" shows colors and shapes alone. In "named" every frame says in a word what changes: that all the words of a
# question must be true of the same frames is learned here or hardly ever. In "change" one shape does all of it and must
# be seen for what it does. "mixed" is the real thing. In half of the videos frames still say what changes, but not at
# the last level. "seen" is for turns, which no level before teaches: an angle must be compared with the one before. It
# takes as many frames as fit into a step, without questions. A level has done its part when most is right: exact
# numbers are learned on the way.
CURRICULUM = (
    (8, "plain", 0.6),
    (8, "named", 0.75),
    (16, "named", 0.85),
    (16, "change", 0.7),
    (16, "mixed", 0.75),
    (32, "change", 0.7),
    (32, "mixed", 0.8),
    (64, "change", 0.75),
    (64, "mixed", 0.8),
    (16, "seen", 0.97),
    (64, "mixed", 1.0),
)
TOLD, TOLD_FRAMES = 0.15, (1, 1, 16, 48)  # share of the batches whose frames say `Yes` or `No`, and their lengths
DESCRIBED = 0.12  # share of the batches that are single frames with their captions
HINTS = 0.5  # of the videos before the last level, say in a word what changes: so that matching it is learned first
LEARNING_RATE = 1e-3
WARM_UP = 100  # steps until the learning rate is reached
LAST_STEPS = 8000  # of the last level; the learning rate falls to zero over their second half
TOKENS_A_STEP = {8: 1024, 16: 1024, 32: 2048, 64: 2048}  # by the level's frames: what is new is learned in small steps
LAST = len(CURRICULUM) - 1


class Choice(NamedTuple):
    """The videos of one batch. `scored`: whether they are the level's own, whose score ends it."""

    frames: int
    kind: str
    size: int
    hints: float
    scored: bool


class Place(NamedTuple):
    """Where a training is: level, its running score, steps on this level, steps in all."""

    level: int = 0
    running: float = 0.0
    since: int = 0
    step: int = 0

    @property
    def done(self) -> bool:
        return self.level == LAST and self.since >= LAST_STEPS

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        left = (LAST_STEPS - self.since) / (LAST_STEPS / 2) if self.level == LAST else 1.0
        return LEARNING_RATE * min(self.step / WARM_UP, left, 1.0)

    def choose(self, rng: np.random.Generator) -> Choice:
        """Videos for the next batch. Earlier levels stay in the mix, so that nothing is forgotten."""
        tokens = TOKENS_A_STEP[CURRICULUM[self.level][0]]
        frames, kind, _ = chosen = CURRICULUM[self.level if rng.random() < 0.85 else int(rng.integers(self.level + 1))]
        other, texts, scored = rng.random(), LOOKUPS, chosen == CURRICULUM[self.level]
        if kind == "seen":
            return Choice(frames, kind, tokens // frames, 0.0, scored)
        if other < TOLD:
            frames, kind, scored = int(rng.choice(TOLD_FRAMES)), "told", False
        elif other < TOLD + DESCRIBED:
            frames, kind, texts, scored = 1, "described", 1, False
        size = tokens // (frames + texts * LOOKUP_TOKENS)
        return Choice(frames, kind, size, HINTS if self.level < LAST else 0.0, scored)

    def after(self, score: float | None) -> "Place":
        """The place after a step; `score` of its batch in 0..1, None for a batch that is not the level's own."""
        running = self.running if score is None else 0.95 * self.running + 0.05 * score
        if running > CURRICULUM[self.level][-1]:
            return Place(self.level + 1, 0.0, 0, self.step + 1)
        return Place(self.level, running, self.since + 1, self.step + 1)
