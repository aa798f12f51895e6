"""The check after a conversion: the same fixed input through the source and through what was written."""

import dataclasses
from typing import Any

import numpy as np

# Largest difference of logits, as a share of the largest logit. In float32 two programs sum in other orders; the
# others round every weight to 11 and 8 bits.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 8e-2}


class CheckError(ValueError):
    """What was written gives other outputs than its source."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two sets of outputs on a fixed input.

    Attributes:
      max_difference, max_value: largest absolute difference, largest absolute value of the first.
      tolerance: the largest difference allowed.
      tokens, tokens_equal: positions whose most likely token was compared, and those where it is the same; 0 where
        outputs are features.
    """

    max_difference: float
    max_value: float
    tolerance: float
    tokens: int = 0
    tokens_equal: int = 0

    @property
    def passed(self) -> bool:
        return bool(self.max_difference <= self.tolerance)  # False for NaN

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"passed": self.passed}

    def __str__(self) -> str:
        same = f"; {self.tokens_equal} of {self.tokens} answer tokens equal" if self.tokens else ""
        return (
            f"largest difference {self.max_difference:.2e} (tolerance {self.tolerance:.2e}, "
            f"largest value {self.max_value:.3g}){same}"
        )


def compare(
    read: np.ndarray,
    written: np.ndarray,
    dtype: Any,
    answers: np.ndarray | None = None,
    tokens: tuple[np.ndarray, np.ndarray] | None = None,
) -> Comparison:
    """Compares outputs [..., V].

    Args:
      answers: [...] bool, the positions whose most likely token counts; or
      tokens: the answer tokens themselves, of both sides.

    Raises:
      CheckError: over the tolerance of `dtype`, or (in float32) another answer token.
    """
    name = np.dtype(dtype).name
    if answers is not None:
        tokens = tuple(side[answers].argmax(-1) for side in (read, written))
    equal = np.zeros(0) if tokens is None else tokens[0] == tokens[1]
    largest = float(np.abs(read).max())
    difference = float(np.abs(read - written).max())
    found = Comparison(difference, largest, TOLERANCE[name] * largest, equal.size, int(equal.sum()))
    if not found.passed or (name == "float32" and found.tokens_equal < found.tokens):
        raise CheckError(f"what was written does not compute what was read: {found}")
    return found
