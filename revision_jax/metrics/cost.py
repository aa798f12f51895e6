"""What a search costs, in things that can be counted: windows, frames, tokens, seconds."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cost:
    """Counters of searches; `a + b` adds them.

    Attributes:
      videos, queries: how many were searched.
      windows: windows encoded (once for all queries of a call).
      frames: frames that entered the language model, `windows * F`.
      tokens_prefilled: tokens through the language model before answers: prefix and video once a window, the
        question once a pair of query and window.
      tokens_decoded: answer tokens generated, over all pairs.
      seconds: wall time.
    """

    videos: int = 0
    queries: int = 0
    windows: int = 0
    frames: int = 0
    tokens_prefilled: int = 0
    tokens_decoded: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Cost(*(a + b for a, b in pairs))

    def as_dict(self) -> dict[str, int | float]:
        return dataclasses.asdict(self)
