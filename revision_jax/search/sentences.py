"""The sentences that are searched for, with CLIP's features of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Q sentences and CLIP's features of them; features that a search does not need may be None.

    Attributes:
      texts: the sentences.
      tokens: `[Q, Tq, D]`, token features; upper levels (depths from 2 on) need them. Tq must not differ between
        calls, or the search compiles again.
      mask: `[Q, Tq]` bool, True for the tokens that are there.
      similar: `[Q, D]`, holistic features; policies that compare CLIP features and the ranking by cosine need them.

    Raises:
      ValueError: features of another number of sentences, or token features without their mask.
    """

    texts: Sequence[str]
    tokens: np.ndarray | None = None
    mask: np.ndarray | None = None
    similar: np.ndarray | None = None

    def __post_init__(self):
        if isinstance(self.texts, str):
            raise ValueError(f"texts is the string {self.texts!r}; expected a sequence of sentences.")
        if (self.tokens is None) != (self.mask is None):
            raise ValueError("token features and their mask go together; one of tokens and mask is None.")
        for name in ("tokens", "mask", "similar"):
            rows = getattr(self, name)
            if rows is not None and len(rows) != len(self.texts):
                raise ValueError(f"{name} holds features of {len(rows)} sentences; expected {len(self.texts)}.")

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, chunk: slice) -> "Sentences":
        """Some of the sentences, with their features."""
        cut = lambda rows: None if rows is None else rows[chunk]
        return Sentences(self.texts[chunk], cut(self.tokens), cut(self.mask), cut(self.similar))
