"""What an evaluation counts and how it searches, by name: ours, the paper's, the released program's.

Each difference is a setting of its own (`search.settings`, or a field here); a protocol is a set of them. What the
released program does in its upper levels beside that (groups of repeated windows in random order, a filter by 0.4 times
the named ranges) is not one of its settings here: `benchmarks.search` times it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How predictions are made and scored.

    Attributes:
      name: as the table says it.
      search: fields of `SearchSettings` that differ from the run's config.
      iou_decimals: IoU is rounded to them before it is compared; None does not round.
      skip_failed: queries that could not be asked leave the denominator; else they are misses.
      says: in a line, for the table.
    """

    name: str
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    iou_decimals: int | None = None
    skip_failed: bool = False
    says: str = ""


ENTROPY_ALONE = {"similarity": 0.0, "alone": 1.0, "verify": 0.0}  # a confidence is the model's own
PROTOCOLS = {
    "ours": Protocol("ours", says="greedy answers, IoU unrounded, every query in the denominator, failures are misses"),
    # The paper names no suppression of overlapping moments.
    "paper": Protocol(
        "paper",
        {"nms_iou": 1.0, "readings": 1, **ENTROPY_ALONE},
        says="greedy answers by 1 / mean entropy, no suppression",
    ),
    # Its ranking orders all answers, not the surest 50: `top_k` is more than the windows of any film.
    "released": Protocol(
        "released",
        {"nms_iou": 1.0, "top_k": 500, "sampling": 0.05, "drop_last_frame": True, "ranking": "cosine"}
        | {"windows": "released", "readings": 1, **ENTROPY_ALONE},
        iou_decimals=2,
        skip_failed=True,
        says="answers sampled at 0.05, its windows and cosine ranking, IoU rounded to 2 decimals, failures skipped",
    ),
}
