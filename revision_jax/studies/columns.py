"""The columns of a study's table: where a value stands in `metrics.json`, and how sure it is for the queries asked."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from revision_jax.metrics.spread import wilson
from revision_jax.report import table

WARM = "warm_seconds_per_query"  # what `warm_seconds` measures, beside the scores of a method


class Column(NamedTuple):
    """A column.

    Attributes:
      path: keys within the scores of a method.
      share_of: what it is a percentage of: "present" or "absent" queries, or the "asked" ones of retrieval; "" where it
        is no share of queries.
      decimals: that are shown.
    """

    path: tuple[str | int, ...]
    share_of: str = ""
    decimals: int = 1

    @property
    def most(self) -> float:
        """What no value is above: 100 percent, or nothing for costs and ranks."""
        counted = self.path[0] in ("cost", "measured", WARM, "median_rank") and self.path[-1] != "frame_share"
        return math.inf if counted else 100.0


def _known() -> dict[str, Column]:
    """Those of the tables of an evaluation."""
    shares = {"recall": "present"}
    columns = {name: Column(path, shares.get(path[0], "")) for name, path in (table.COLUMNS | table.DETAILS).items()}
    columns["false alarms"] = columns["false alarms"]._replace(share_of="absent")
    columns["s/query"] = columns["s/query"]._replace(decimals=2)
    return columns


COLUMNS: dict[str, Column] = {
    **_known(),
    **{f"ECE@.{n}": Column(("calibration", f"0.{n}", "ece")) for n in (1, 3, 5)},
    **{f"ECE@.{n} raw": Column(("calibration", f"0.{n}", "ece_uncalibrated")) for n in (1, 3, 5)},
    **{f"AUROC@.{n}": Column(("calibration", f"0.{n}", "auroc")) for n in (1, 3, 5)},
    "search recall": Column(("search", -1, "recall"), "present"),
    "s/query, warm": Column((WARM,), decimals=3),
    **{f"R@{k}": Column((f"R@{k}",), "asked") for k in (1, 5, 10)},
    "median rank": Column(("median_rank",)),
}
NOTES = {
    "search recall": "events among the windows that the last upper level sent down, percent",
    "frames": "dense frames that the LLM saw of a video, percent",
    "ECE@.3": "error of confidences as probabilities that the first moment is right, after a temperature fitted on val",
    "ECE@.3 raw": "the same at temperature 1",
    "AUROC@.3": "of right against wrong first moments by confidence, percent",
    "s/query, warm": "seconds a query, median over videos, so that the first one, which compiles, counts little",
}


def scores_of(metrics: Mapping[str, Any], method: str) -> Mapping[str, Any]:
    """The scores of a method, of a search or of retrieval.

    Raises:
      ValueError: it was not asked.
    """
    for scores in (metrics["methods"], metrics["retrieval"].get("methods", {})):
        if method in scores:
            return scores[method]
    raise ValueError(f"the evaluation has no method {method!r}; expected one of {', '.join(metrics['methods'])}")


def value_of(scores: Mapping[str, Any], name: str) -> float | None:
    """The value of a column; None where the scores have none."""
    value: Any = scores
    for key in COLUMNS[name].path:
        if isinstance(key, int):
            value = value[key] if isinstance(value, list) and value else None
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def bounds_of(queries: Mapping[str, int], scores: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The 95 % interval of a value over queries: Wilson's of a share, the bootstrap's of mIoU; None of others.

    Args:
      queries: how many there are: "present", "absent", and "asked" in retrieval.
    """
    value, column = value_of(scores, name), COLUMNS[name]
    if value is None:
        return None
    if column.path == ("mean_iou",):
        found = scores["intervals"]["mean_iou"]
        return None if None in found else (found[0], found[1])
    count = queries.get(column.share_of)
    return wilson(value, count) if count else None
