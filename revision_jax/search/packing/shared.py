"""What searches of one video for the same sentences have in common: it is done once.

A search that uses all of it counts its seconds as its own. Of one that takes a part of it no seconds are known.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from revision_jax.units import GIB

SHARED_BYTES = GIB  # of a device's memory, for each thing that several searches share


@dataclasses.dataclass(frozen=True)
class Made:
    """Arrays that several searches use.

    Attributes:
      parts: of each part of the queries (`padding.query_chunks`).
      seconds: that it took to make them; a search that uses them counts them as its own.
    """

    parts: tuple[Any, ...]
    seconds: float = 0.0

    def part(self, number: int) -> "Made":
        """That of one part of the queries; seconds are counted once, with all parts."""
        return Made((self.parts[number],))


@dataclasses.dataclass(frozen=True)
class Shared:
    """What was made for a video and some sentences; a search makes for itself what is not here.

    Attributes:
      vectors: sparse vectors `[Q, U, H]`, see `levels/upper.py`.
      levels: `Reading` of an upper level that is shown every window, by its windows of a group.
      dense: `Answers` about every dense window, see `levels/dense.py`.
    """

    vectors: Made | None = None
    levels: Mapping[int, Made] = dataclasses.field(default_factory=dict)
    dense: Made | None = None

    def part(self, number: int) -> "Shared":
        """That of one part of the queries."""
        of = lambda made: None if made is None else made.part(number)
        return Shared(of(self.vectors), {size: made.part(number) for size, made in self.levels.items()}, of(self.dense))


NOTHING = Shared()
