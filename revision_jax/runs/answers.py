"""What `ground` tells of a search, as text and as JSON: the moments, what was looked at, what it cost."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from revision_jax.quoting import shortened
from revision_jax.report.table import clock
from revision_jax.search.result import Result, Searched


@dataclasses.dataclass(frozen=True)
class Answered:
    """The answers about one video.

    Attributes:
      video: its path.
      duration_s: its length in seconds.
      searched: results and cost.
      config: of the run, for how it searched.
      top: the most moments that are told of a query.
    """

    video: str
    duration_s: float
    searched: Searched
    config: ConfigDict
    top: int


def as_json(found: Answered) -> str:
    """An object with "video", "duration_s", "search", "cost" and "queries".

    A query has "sentence", "present", "threshold", "moments" and "levels".

    Moments are those at or above the threshold. A level is the share of the video's seconds that it sent down, and its
    windows in seconds.
    """
    search, cost = found.config.search, found.searched.cost
    content = {
        "video": found.video,
        "duration_s": found.duration_s,
        "search": {"depth": search.depth, "policy": search.policy, "keep": list(search.keep)},
        "cost": {"seconds": cost.seconds, "frame_share": cost.frame_share, **cost.rates()},
        "queries": [_query(found, result) for result in found.searched.results],
    }
    return json.dumps(content, indent=2)


def _query(found: Answered, result: Result) -> dict:
    keys = ("start_s", "end_s", "confidence")
    return {
        "sentence": result.sentence,
        "present": result.present,
        "threshold": result.threshold,
        "moments": [dict(zip(keys, moment)) for moment in result.found[: found.top].tolist()],
        "levels": [
            {"level": name, "share": share, "windows": windows.tolist()}
            for (name, share), windows in zip(_levels(found, result), result.sent)
        ],
    }


def describe(found: Answered) -> str:
    """The answers in lines of text: a block a query, then what was looked at and the cost of all."""
    blocks = [_describe_one(found, result) for result in found.searched.results]
    return "\n\n".join([*blocks, _cost(found)])


def _describe_one(found: Answered, result: Result) -> str:
    told = ", then ".join(map(_told, _levels(found, result)))
    looked = [f"  looked at: {told}"] if result.sent else []
    if not result.present:
        best = f" (surest answer: {result.score:.2f}, needed: {result.threshold:.2f})" if len(result.moments) else ""
        return "\n".join([shortened(result.sentence), f"  not in this video{best}", *looked])
    moments = [
        f"  {rank}. {clock(start)} - {clock(end)}   confidence {confidence:.2f}"
        for rank, (start, end, confidence) in enumerate(result.found[: found.top], 1)
    ]
    return "\n".join([shortened(result.sentence), *moments, *looked])


def _levels(found: Answered, result: Result) -> list[tuple[str, float]]:
    """(name, percent of the video's seconds in the windows that it sent down) of each level, coarse first."""
    sizes = [f"groups of {size}" for size in found.config.hierarchy.levels]
    count = len(result.sent)
    names = sizes[len(sizes) - count :] if found.config.search.depth > 1 else ["similarity"] * count
    return [(name, 100.0 * covered(windows) / found.duration_s) for name, windows in zip(names, result.sent)]


def _told(level: tuple[str, float]) -> str:
    return f"{level[0]} kept {level[1]:.0f} % of the video"


def covered(windows: np.ndarray | Sequence) -> float:
    """Seconds that windows `[k, 2]` cover together."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(map(tuple, np.asarray(windows).tolist())):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _cost(found: Answered) -> str:
    cost, search = found.searched.cost, found.config.search
    how = f"depth {search.depth}" + (f", {search.policy}" if search.depth > 1 else "")
    tokens = cost.rates()["llm_tokens_per_query"]
    return (
        f"{how}: {cost.frame_share:.0f} % of the dense windows asked, {tokens:,.0f} tokens a query through the "
        f"language model, {cost.seconds:.1f} s"
    )
