"""What `ground` tells of a search, as text and as JSON: the moments, what was looked at, what it cost."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from revision_jax.data.video.opening import VideoError
from revision_jax.files import plain
from revision_jax.quoting import escaped, shortened
from revision_jax.report.moments import Moment
from revision_jax.report.table import clock
from revision_jax.search.result import Result, Searched

SCHEMA = 1  # of `as_json`; raised where a key goes or changes its meaning


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


def as_json(found: Sequence[Answered], skipped: Sequence[VideoError] = ()) -> str:
    """The answers about videos, as docs/data.md lists them key by key; `SCHEMA` is their version.

    Moments are those at or above the threshold. A level is the share of the video's seconds that it sent down, and its
    windows in seconds. The ranking holds the moments of all videos, surest first.
    """
    search = found[0].config.search
    content = {
        "version": SCHEMA,
        "search": {"depth": search.depth, "policy": search.policy, "keep": list(search.keep)},
        "videos": [_video(one) for one in found],
        "ranking": [
            {
                "sentence": results[0].sentence,
                "moments": [{"video": video, **_moment(row)} for video, row in ranked(found, number)],
            }
            for number, results in enumerate(zip(*(one.searched.results for one in found)))
        ],
        "skipped": [{"video": str(error.path), "reason": str(error)} for error in skipped],
    }
    return json.dumps(plain(content), indent=2)


def ranked(found: Sequence[Answered], number: int) -> list[tuple[str, np.ndarray]]:
    """(video, (start_s, end_s, confidence)) of the surest `top` moments of one sentence in all videos."""
    rows = [(one.video, row) for one in found for row in one.searched.results[number].found[: one.top]]
    return sorted(rows, key=lambda row: -row[1][2])[: found[0].top]


def moments(found: Sequence[Answered]) -> list[Moment]:
    """What is told of all sentences, one after the other, each surest first."""
    sentences = [result.sentence for result in found[0].searched.results]
    return [
        Moment(sentence, video, *row.tolist())
        for number, sentence in enumerate(sentences)
        for video, row in ranked(found, number)
    ]


def _video(found: Answered) -> dict:
    cost = found.searched.cost
    return {
        "video": found.video,
        "duration_s": found.duration_s,
        "cost": {"seconds": cost.seconds, "frame_share": cost.frame_share, **cost.rates()},
        "queries": [_query(found, result) for result in found.searched.results],
    }


def _moment(row: np.ndarray) -> dict[str, float]:
    return dict(zip(("start_s", "end_s", "confidence"), row.tolist()))


def _query(found: Answered, result: Result) -> dict:
    return {
        "sentence": result.sentence,
        "present": result.present,
        "threshold": result.threshold,
        "moments": [_moment(row) for row in result.found[: found.top]],
        "levels": [
            {"level": name, "share": share, "windows": windows.tolist()}
            for (name, share), windows in zip(levels(found, result), result.sent)
        ],
    }


def describe(found: Sequence[Answered]) -> str:
    """The answers in lines of text: a block a query, then what was looked at and the cost of all."""
    if len(found) == 1:
        blocks = [_describe_one(found[0], result) for result in found[0].searched.results]
    else:
        blocks = [_describe_all(found, number) for number in range(len(found[0].searched.results))]
    return "\n\n".join([*blocks, _cost(found)])


def _describe_all(found: Sequence[Answered], number: int) -> str:
    """The surest moments of one sentence, each with its video."""
    results = [one.searched.results[number] for one in found]
    if not any(result.present for result in results):
        best = _surest(max(results, key=lambda result: result.score))
        return f"{shortened(results[0].sentence)}\n  not in these {len(found)} videos{best}"
    lines = [
        f"  {rank}. {clock(start)} - {clock(end)}   confidence {confidence:.2f}   {escaped(video)}"
        for rank, (video, (start, end, confidence)) in enumerate(ranked(found, number), 1)
    ]
    count = sum(result.present for result in results)
    return "\n".join([shortened(results[0].sentence), *lines, f"  in {count} of {len(found)} videos"])


def _surest(result: Result) -> str:
    """What was missing to a moment; "" where no window had one."""
    return f" (surest answer: {result.score:.2f}, needed: {result.threshold:.2f})" if len(result.moments) else ""


def _describe_one(found: Answered, result: Result) -> str:
    told = ", then ".join(map(_told, levels(found, result)))
    looked = [f"  looked at: {told}"] if result.sent else []
    if not result.present:
        return "\n".join([shortened(result.sentence), f"  not in this video{_surest(result)}", *looked])
    moments = [
        f"  {rank}. {clock(start)} - {clock(end)}   confidence {confidence:.2f}"
        for rank, (start, end, confidence) in enumerate(result.found[: found.top], 1)
    ]
    return "\n".join([shortened(result.sentence), *moments, *looked])


def levels(found: Answered, result: Result) -> list[tuple[str, float]]:
    """(name, percent of the video's seconds in the windows that it sent down) of each upper level, coarse first."""
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


def _cost(found: Sequence[Answered]) -> str:
    costs, search = [one.searched.cost for one in found], found[0].config.search
    how = f"depth {search.depth}" + (f", {search.policy}" if search.depth > 1 else "")
    share = sum(cost.frame_share * one.duration_s for cost, one in zip(costs, found))
    share /= sum(one.duration_s for one in found)
    tokens = sum(cost.rates()["llm_tokens_per_query"] for cost in costs)
    return (
        f"{how}: {share:.0f} % of the dense windows asked, {tokens:,.0f} tokens a query through the "
        f"language model, {sum(cost.seconds for cost in costs):.1f} s"
    )
