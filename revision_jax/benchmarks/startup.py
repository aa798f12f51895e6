"""What a data set of many queries costs before the first batch: time and memory a query.

    python -m revision_jax.benchmarks.startup --queries 280000 --videos 488
    python -m revision_jax.benchmarks.startup --queries 1000000 --videos 100000 --groups videos

The queries are made: sentences of 12 words, one moment each, videos of two hours (`--groups videos`: of 30 s). Then
all that a training does with them: the check of the annotations (`check`), reading them (`read`), the check that they
fit the prompt in tokens of the shipped tokenizer (`prompt`), and choosing what can be drawn (`draw`: windows and groups
of 33 and 100, or videos). Videos' features are not read. Time is processor time of all threads, which other load on the
machine changes less, with `wall_us` beside it. `kept_bytes`: what stays in memory, by the process's own memory after
against before, without what the allocator holds free; `peak_bytes`: the most that it needed in between.
"""

import argparse
import ctypes
import gc
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from revision_jax.benchmarks.machine import processor
from revision_jax.benchmarks.pipeline import make_prompts, own_mib
from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.annotations.table import QueryTable
from revision_jax.data.batches.clips import ClipDrawer, ClipKind
from revision_jax.data.batches.groups import GroupDrawer, GroupKind, VideoGroupDrawer
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.train_split import too_long
from revision_jax.data.check import clean_queries
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import span_answer

HIERARCHY = Hierarchy(window_s=125.0, num_frames=250)
WORDS = np.array(
    ["a", "the", "man", "woman", "walks", "opens", "door", "red", "car", "street", "slowly", "turns", "looks", "smiles"]
)
VIDEO_S = {"windows": 7200.0, "videos": 30.0}


def make_queries(path: Path, count: int, videos: int, duration_s: float) -> None:
    """A jsonl of `count` queries over `videos` videos."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for first in range(0, count, 10_000):
            words = rng.choice(WORDS, (10_000, 12))
            starts = rng.uniform(0, duration_s - 8, 10_000)
            for number in range(first, min(count, first + 10_000)):
                start = round(starts[number - first], 2)
                row = {
                    "query_id": str(number), "video_id": f"video{number * videos // count:07d}",
                    "sentence": " ".join(words[number - first]).capitalize() + ".",
                    "moments": [[start, start + 4.1]], "distractors": [],
                }  # fmt: skip
                file.write(json.dumps(row) + "\n")


def drawers(queries: QueryTable, durations: Mapping[str, float], groups: str) -> list[Any]:
    """What a training draws from: windows and groups of two sizes."""
    if groups == "videos":
        clips = ClipDrawer(queries, HIERARCHY, durations, ClipKind(whole=True))
        return [clips, *(VideoGroupDrawer(queries, durations, size=size) for size in (100, 33))]
    kind, negatives = GroupKind(), Random(HIERARCHY, durations)
    clips = ClipDrawer(queries, HIERARCHY, durations, ClipKind())
    sizes = (100, 33)
    return [
        clips,
        *(GroupDrawer(queries, HIERARCHY, durations, size=n, kind=kind, negatives=negatives) for n in sizes),
    ]


def run(count: int, videos: int, groups: str) -> dict[str, Any]:
    """The figures of one simulated data set."""
    durations = {f"video{number:07d}": VIDEO_S[groups] for number in range(videos)}
    prompts, parts, kept = make_prompts(96), {}, {}
    prompts.unsure(["warm up."], "From 00 to 01.")

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started, busy = time.perf_counter(), time.process_time()
        result = work()
        busy, wall = time.process_time() - busy, time.perf_counter() - started
        parts[name] = {"us": round(1e6 * busy / count, 2), "wall_us": round(1e6 * wall / count, 2)}
        return result

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "queries.jsonl"
        make_queries(path, count, videos, VIDEO_S[groups])
        before, peak = _kept_mib(), _peak_mib()
        if timed("check", lambda: clean_queries(path, durations)) is None:
            raise RuntimeError(f"{path}: the made queries are not clean")
        queries = timed("read", lambda: load_queries(path, durations))
    if timed("prompt", lambda: too_long(queries, prompts, span_answer(249, 249), "dense")):
        raise RuntimeError("a made query is too long for the prompt")
    kept["drawers"] = timed("draw", lambda: drawers(queries, durations, groups))
    a_query = lambda mib: round(mib * 2**20 / count, 1)
    return {
        "benchmark": "startup",
        "queries": count,
        "videos": videos,
        "groups": groups,
        "us": round(sum(part["us"] for part in parts.values()), 2),
        "wall_us": round(sum(part["wall_us"] for part in parts.values()), 2),
        "kept_bytes": a_query(_kept_mib() - before),
        "peak_bytes": a_query(_peak_mib() - peak),
        "parts": parts,
        "rows": [len(drawer) for drawer in kept["drawers"]],
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(),
    }


def _kept_mib() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else memory that was freed counts as the process's own
    return own_mib()


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=280_000, help="(default: %(default)s, as MAD has)")
    parser.add_argument("--videos", type=int, default=488, help="(default: %(default)s, as MAD has)")
    parser.add_argument("--groups", choices=sorted(VIDEO_S), default="windows", help="what groups consist of")
    args = parser.parse_args(argv)
    print(json.dumps(run(args.queries, args.videos, args.groups)))


if __name__ == "__main__":
    main()
