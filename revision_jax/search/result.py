"""What a search answers: a result for each sentence, and what it cost."""

import dataclasses

import numpy as np

from revision_jax.metrics.cost import Cost
from revision_jax.search.levels.dense import Answers


@dataclasses.dataclass(frozen=True)
class Result:
    """The answer to one sentence on one video.

    Attributes:
      sentence: the query.
      moments: `[k, 3]` float64 (start_s, end_s, confidence), surest first; k may be 0.
      threshold: the least confidence at which a moment counts as present.
      windows: dense windows asked.
      tokens: dense question and answer tokens spent on this query (the windows' own are shared by all queries).
      sent: the windows that each upper level sent down, `[k, 2]` seconds, coarse first: upper windows, and last the
        dense windows that were asked. Empty where every dense window is asked without upper levels.
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
        """Whether some moment is at or above the threshold."""
        return self.score >= self.threshold and len(self.moments) > 0

    @property
    def found(self) -> np.ndarray:
        """The moments at or above the threshold, `[n, 3]`."""
        return self.moments[self.moments[:, 2] >= self.threshold]


@dataclasses.dataclass(frozen=True)
class Searched:
    """All that a search of one video returns.

    Attributes:
      results: one for each sentence, in their order.
      cost: of the search.
      answers: the dense answers about every pair, token by token, on the device: the first Q rows and W columns are
        those of the sentences and windows, the rest is padding. None where there was no sentence.
    """

    results: list[Result]
    cost: Cost
    answers: Answers | None = None
