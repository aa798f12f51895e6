"""What a search answers to one sentence."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Result:
    """The answer to one sentence on one video.

    Attributes:
      sentence: the query.
      moments: `[k, 3]` float64 (start_s, end_s, confidence), surest first; k may be 0.
      threshold: the least confidence at which a moment counts as present.
      windows: dense windows asked.
      tokens: dense question and answer tokens spent on this query (the windows' own are shared by all queries).
      sent: the windows that each upper level sent down, `[k, 2]` seconds, coarse first: upper windows, and in the end
        the dense windows that were asked. Empty at depths 0 and 1, which ask them all.
    """

    sentence: str
    moments: np.ndarray
    threshold: float = 0.0
    windows: int = 0
    tokens: int = 0
    sent: tuple[np.ndarray, ...] = ()

    @property
    def score(self) -> float:
        """Confidence of the best moment; -inf if there is none (every window answered `Not Present`)."""
        return float(self.moments[0, 2]) if len(self.moments) else float("-inf")

    @property
    def present(self) -> bool:
        return self.score >= self.threshold and len(self.moments) > 0

    @property
    def found(self) -> np.ndarray:
        """The moments at or above the threshold, `[n, 3]`."""
        return self.moments[self.moments[:, 2] >= self.threshold]
