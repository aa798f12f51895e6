"""What a search costs, and whether it still finds the event, as videos grow from half an hour to ten hours.

    python -m revision_jax.benchmarks.length --workdir runs/stage2-tiny   # with recall
    python -m revision_jax.benchmarks.length --shape small                # random weights

Longer videos repeat the footage of a test video, as the paper's Figure 5 does, but the event is there once: in the
other copies the frames around it are replaced by others of the same video. Every query is searched alone, top-down, and
each level sends down a number of windows (`--keep`), not a share. Memory is what the compiled program needs: inputs
and results, and its temporary arrays. Prints one JSON line.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from revision_jax.benchmarks import search as random_weights
from revision_jax.data.annotations.queries import Query
from revision_jax.data.video.extraction import VideoFeatures
from revision_jax.evaluation.methods import with_fitted_questions
from revision_jax.metrics.grounding import best_iou
from revision_jax.metrics.recall import holds_event
from revision_jax.runs.run import Run
from revision_jax.search.searcher import Searcher
from revision_jax.search.sentences import Sentences

Moments = Sequence[tuple[float, float]]
Footage = tuple[VideoFeatures, Moments]
Case = tuple[Sentences, Callable[[float], Footage]]
HOURS = (0.5, 1.0, 2.0, 5.0, 10.0)
MARGIN_S = 4.0


def repeated(
    features: np.ndarray, fps: float, moments: Moments, seconds: float, seed: int
) -> tuple[np.ndarray, Moments]:  # fmt: skip
    """Footage repeated to a length, with the events of one copy only.

    Args:
      features: `[N, D]`; moments: of the event, in seconds.

    Returns:
      features `[seconds * fps, D]`, and the moments in them.
    """
    wanted, length = round(seconds * fps), len(features)
    rng = np.random.default_rng(seed)
    without = features.copy()
    for start, end in moments:
        first, last = max(int((start - MARGIN_S) * fps), 0), min(int(np.ceil((end + MARGIN_S) * fps)), length)
        # As many frames from somewhere else in the video, where the event does not show either.
        elsewhere = [
            i for i in range(0, length - (last - first), 8) if _clear(i / fps, (i + last - first) / fps, moments)
        ]
        source = int(rng.choice(elsewhere))
        without[first:last] = features[source : source + last - first]
    if wanted < length:
        # A shorter video is cut around the event.
        start, end = moments[0]
        low, high = max(int(np.ceil(end * fps)) - wanted, 0), min(int(start * fps), length - wanted)
        cut = int(rng.integers(low, high + 1))
        shown = [(s - cut / fps, e - cut / fps) for s, e in moments if s * fps >= cut and e * fps <= cut + wanted]
        return features[cut : cut + wanted], shown
    copies = -(-wanted // length)
    chosen = int(rng.integers(max(wanted // length, 1)))
    tiled = np.concatenate([features if i == chosen else without for i in range(copies)])[:wanted]
    shift = chosen * length / fps
    return tiled, [(start + shift, end + shift) for start, end in moments]


def _clear(start: float, end: float, moments: Moments) -> bool:
    return all(end < s - MARGIN_S or start > e + MARGIN_S for s, e in moments)


def measure(searcher: Searcher, depth: int, hours: float, cases: Sequence[Case]) -> dict[str, Any]:
    """One length.

    Args:
      cases: (one sentence, `make(seconds) -> (video, moments)`).
    """
    seconds, rows, memory = hours * 3600.0, [], None
    for i, (sentence, make) in enumerate(cases):
        video, moments = make(seconds)
        ask = dict(depth=depth, policy="top_down")
        with jax.set_mesh(searcher.mesh):
            if memory is None:
                traced, _ = searcher.trace(video, sentence, **ask)
                memory = traced.lower().compile().memory_analysis()
                searcher.search(video, sentence, **ask)  # the first one is slow
            started = time.perf_counter()
            searched = searcher.search(video, sentence, **ask)
        (result,), cost = searched.results, searched.cost
        rows.append({
            "seconds": time.perf_counter() - started,
            "llm_tokens": cost.llm_tokens,
            "dense_windows": cost.pairs,
            "sparse_vectors": cost.levels[0].windows if cost.levels else 0,
            "gflop": cost.flops / 1e9,
            "hit": bool(moments) and len(result.moments) > 0 and best_iou(result.moments[:1], moments)[0] > 0.3,
            "sent_down": bool(moments) and holds_event(result.sent[-1], moments),
        })  # fmt: skip
        print(f"{hours} h: query {i + 1} of {len(cases)}", file=sys.stderr)
    random_weights.check_compiled(searcher)
    mean = lambda name: float(np.mean([row[name] for row in rows]))
    known = cases and bool(moments)
    return {
        "hours": hours,
        "seconds_per_query": mean("seconds"),
        "llm_tokens_per_query": mean("llm_tokens"),
        "dense_windows_per_query": mean("dense_windows"),
        "sparse_vectors_per_query": mean("sparse_vectors"),
        "gflop_per_query": mean("gflop"),
        "R1@0.3": 100 * mean("hit") if known else None,
        "search_recall": 100 * mean("sent_down") if known else None,
        "inputs_mib": (memory.argument_size_in_bytes + memory.output_size_in_bytes) / 2**20,
        "temporary_mib": memory.temp_size_in_bytes / 2**20,
    }


def cases_of_run(
    workdir: Path, queries: int, changes: Mapping[str, Any], seed: int
) -> tuple[Searcher, int, list[Case]]:  # fmt: skip
    """The searcher of a run with upper levels, its depth, and cases of the first test video."""
    run = Run.load(workdir)
    split = run.split("test")
    video_id = next(iter(split.queries))
    features, fps = split.store.read_all(video_id), split.store.manifest.fps
    asked = [query for query in split.queries[video_id] if query.present][:queries]
    searcher = with_fitted_questions(run.searcher(changes=changes), asked)

    def make(query: Query, i: int) -> Callable[[float], Footage]:
        def build(seconds: float) -> Footage:
            longer, moments = repeated(features, fps, query.moments, seconds, seed + i)
            return VideoFeatures(longer, seconds, fps), moments

        return build

    depth = searcher.max_depth
    cases = [(run.sentences([query.sentence], depth, "top_down"), make(query, i)) for i, query in enumerate(asked)]
    return searcher, depth, cases


def cases_of_shape(
    shape: str, queries: int, changes: Mapping[str, Any], upper_scale: float
) -> tuple[Searcher, int, list[Case]]:  # fmt: skip
    """A searcher with random weights, its depth, and cases of random features; nothing can be found there."""
    prompts = random_weights.make_prompts()
    settings = random_weights.make_settings(depth=3, query_batch=1, window_block=64, decode_block=16, **changes)
    searcher = random_weights.make_searcher(random_weights.make_models(shape), prompts, settings, 0.0, upper_scale)
    asked = random_weights.make_queries(shape, queries)
    searcher = searcher.fitted_to(asked.texts)
    make = lambda seconds: (random_weights.make_video(shape, seconds), [])
    one = lambda i: Sentences([asked.texts[i]], asked.tokens[i : i + 1], asked.mask[i : i + 1])
    cases = [(one(i), make) for i in range(queries)]
    return searcher, 3, cases


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, help="a trained run with upper levels (configs/stage2.py)")
    parser.add_argument("--shape", choices=random_weights.SHAPES, default="small", help="random weights, without runs")
    parser.add_argument(
        "--queries", type=int, default=20, help="present queries of a test video (default: %(default)s)"
    )
    parser.add_argument("--hours", default=",".join(map(str, HOURS)), help="default: %(default)s")
    parser.add_argument("--keep", default="48,16", help="windows each level sends down (default: %(default)s)")
    parser.add_argument("--readings", type=int, default=1, help="search.readings (default: %(default)s)")
    parser.add_argument(
        "--upper_scale", type=float, default=1.0, help="random weights: length of upper windows, in dense"
    )
    parser.add_argument("--seed", type=int, default=0, help="in which copy the event is")
    args = parser.parse_args(argv)
    if args.workdir and args.upper_scale != 1.0:
        parser.error("--upper_scale is for random weights: a run was trained on windows of one length")
    keep = tuple(float(part) for part in args.keep.split(","))
    changes = {"keep": keep, "least": 1, "readings": args.readings}
    if args.workdir:
        searcher, depth, cases = cases_of_run(args.workdir, args.queries, changes, args.seed)
    else:
        searcher, depth, cases = cases_of_shape(args.shape, args.queries, changes, args.upper_scale)
    rows = [measure(searcher, depth, float(hours), cases) for hours in args.hours.split(",")]
    result = {
        "benchmark": "length",
        "queries": len(cases),
        **changes,
        "upper_scale": args.upper_scale,
        "device": jax.devices()[0].device_kind,
    }
    result["weights"] = str(args.workdir) if args.workdir else f"random, {args.shape}"
    print(json.dumps(result | {"rows": rows}))


if __name__ == "__main__":
    main()
