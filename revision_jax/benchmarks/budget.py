"""Recall against what a search looks at: every policy, from 1 to 100 % of the dense windows.

    python -m revision_jax.benchmarks.budget --workdir runs/stage2-tiny --plot budget.png
    python -m revision_jax.benchmarks.budget --workdir SEED0/long --workdir SEED1/long --plot docs/budget.png

Each policy searches the test videos as deep as it goes, at each share of `--keep`. `--spend even`: all levels cut by
one factor; `last`: the last level alone cuts. `cascade` has the shortlist of the run, or the share where that is more.
`bottom_up` asks everything, so it has one point. Intervals are of 95 %, from a bootstrap over queries, whose recall is
the mean over runs; those of differences to all windows (depth 1) are paired. The answers of a run are logged in
RUN/budget-curve: the same command goes on where it was stopped. Prints a table in Markdown and one JSON line.
"""

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation import methods as m
from revision_jax.evaluation.budget import Way, ask_ways, shares
from revision_jax.evaluation.identity import file_digest
from revision_jax.files import alone_in, plain
from revision_jax.metrics.bootstrap import mean_intervals
from revision_jax.metrics.cost import Cost
from revision_jax.metrics.grounding import best_iou, hits_at_k
from revision_jax.report.curves import recall_against_cost
from revision_jax.report.table import method_name
from revision_jax.runs.run import Run
from revision_jax.search.method import PLAIN
from revision_jax.search.policies import find_policy, policy_names
from revision_jax.search.searcher import Searcher

KEEP = (0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0)
SCORES = ("R1@0.1", "R1@0.3")
COSTS = ("frame_share", "llm_tokens_per_query", "gflops_per_query", "frames_to_llm_per_query")
SPEND = ("last", "even")  # in the order of `evaluation.budget.shares`
FOLDER = "budget-curve"
EVERYTHING = "depth1"  # the method with which all are compared


class Point(NamedTuple):
    """A method and the share of the dense windows that it may ask."""

    method: str
    keep: float


class Measured(NamedTuple):
    """What one run gave at a point: score -> `[Q]` percent of each present query, and what it cost."""

    values: Mapping[str, np.ndarray]
    cost: Cost


class Measurement(NamedTuple):
    """One run: what was asked (a hash of the data), and what it gave at each point."""

    asked: str
    points: Mapping[Point, Measured]


# ------------------------------------------------------------------------------------------------- measuring
def ways_of(searcher: Searcher, policies: Sequence[str], keeps: Sequence[float], spend: str) -> dict[Point, Way]:
    """The searches that are measured; first the one of all windows."""
    own, unused = searcher.settings.shortlist, (1.0,) * len(searcher.settings.keep)
    found = {Point(EVERYTHING, 1.0): Way(1, PLAIN, unused, own)}
    for policy in policies:
        kind = find_policy(policy)
        depth = searcher.max_depth if kind.most_depth is None else min(kind.most_depth, searcher.max_depth)
        if depth < kind.least_depth or (policy == PLAIN and depth == 1):
            continue  # no such search in a run without upper levels
        for keep in keeps:
            shortlist = max(own, keep) if kind.shortlists else own
            shown = shortlist if kind.shortlists else 1.0
            way = Way(depth, policy, shares(keep, shown, depth - 1, searcher)[SPEND.index(spend)], shortlist)
            if keep == 1 or way.asked_share(searcher) < 1:
                found[Point(way.method, keep)] = way
    return found


def measure(workdir: Path, policies: Sequence[str], keeps: Sequence[float], spend: str) -> Measurement:
    """All points of a run on its test split."""
    run = Run.load(workdir)
    run.check_answers()
    run.check_windows()
    models, split = run.models(), run.split("test")
    searcher = m.with_fitted_questions(run.searcher(models), split.all_queries)
    ways = ways_of(searcher, policies, keeps, spend)
    asking = m.Asking(run, searcher, None)
    with alone_in(workdir / FOLDER), jax.set_mesh(run.mesh):
        answers = ask_ways(list(ways.values()), asking, split, models, workdir / FOLDER / "predictions.jsonl")
    found = {point: (hits(split.all_queries, answers[way][0]), answers[way][1]) for point, way in ways.items()}
    return Measurement(file_digest(split), {point: Measured(*both) for point, both in found.items()})


def hits(queries: Sequence[Query], predictions: Sequence) -> dict[str, np.ndarray]:
    """Score -> 100 or 0 of each present query, in order."""
    present = [(query, found) for query, found in zip(queries, predictions, strict=True) if query.present]
    right = hits_at_k([best_iou(found.moments, query.moments) for query, found in present])
    return {score: 100.0 * right[score] for score in SCORES}


# ------------------------------------------------------------------------------------------------- over runs
def rows_over(runs: Sequence[Measurement]) -> list[dict[str, Any]]:
    """A row a point: scores with intervals, differences to all windows, and the mean cost.

    Raises:
      ValueError: the runs were asked different queries, so that a query has no mean over them.
    """
    if len({run.asked for run in runs}) > 1:
        raise ValueError("the runs have different test data; expected runs that were asked the same queries.")
    mean = lambda point, score: np.mean([run.points[point].values[score] for run in runs], axis=0)
    rows = []
    for point in runs[0].points:
        row: dict[str, Any] = {"method": point.method, "keep": point.keep}
        values = {score: mean(point, score) for score in SCORES}
        minus = {f"{score} minus all": values[score] - mean(Point(EVERYTHING, 1.0), score) for score in SCORES}
        intervals = mean_intervals(values | minus)
        for name, each in (values | minus).items():
            row[name] = {"value": float(each.mean()), "interval": intervals[name]}
        for score in SCORES:
            row[score]["runs"] = [float(run.points[point].values[score].mean()) for run in runs]
        costs = [run.points[point].cost for run in runs]
        known = [cost.rates() | {"frame_share": cost.frame_share} for cost in costs]
        rows.append(row | {name: float(np.mean([one[name] for one in known])) for name in COSTS})
    return rows


def lines_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Method -> its rows."""
    return {name: [row for row in rows if row["method"] == name] for name in dict.fromkeys(r["method"] for r in rows)}


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table, a row a point."""
    told = lambda cell, sign="": (
        f"{cell['value']:{sign}.1f} ({cell['interval'][0]:{sign}.1f} to {cell['interval'][1]:{sign}.1f})"
    )
    headings = ["method", "windows asked, %", "R1@.1 (95 %)", "R1@.3 (95 %)", "R1@.3 minus all windows (95 %)"]
    headings += ["LLM tokens/query", "GFLOP/query", "frames/query"]
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for row in rows:
        cells = [method_name(row["method"]), f"{row['frame_share']:.1f}", *(told(row[score]) for score in SCORES)]
        cells += [told(row["R1@0.3 minus all"], "+"), f"{row['llm_tokens_per_query']:,.0f}"]
        cells += [f"{row['gflops_per_query']:.3g}", f"{row['frames_to_llm_per_query']:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workdir", type=Path, action="append", required=True, help="a run that can answer; repeatable, one a seed")
    add("--policies", default=",".join(policy_names()), help="default: %(default)s")
    add("--keep", default=",".join(map(str, KEEP)), help="shares of the dense windows (default: %(default)s)")
    add("--spend", choices=SPEND, default="even", help="which levels cut (default: %(default)s)")
    add("--plot", type=Path, metavar="FILE", help="also draw it")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("revision_jax").setLevel(logging.INFO)  # how far it is, on stderr
    keeps = [float(text) for text in args.keep.split(",")]
    if not all(0 < keep <= 1 for keep in keeps):
        parser.error(f"--keep is {args.keep}; expected shares above 0 and at most 1")
    runs = [measure(workdir, args.policies.split(","), keeps, args.spend) for workdir in args.workdir]
    rows = rows_over(runs)
    if args.plot:
        recall_against_cost(lines_of(rows), args.plot)
    print(markdown(rows))
    result = {"benchmark": "budget", "runs": list(map(str, args.workdir)), "spend": args.spend}
    result |= {
        "device": jax.devices()[0].device_kind,
        "queries": len(next(iter(runs[0].points.values())).values["R1@0.3"]),
    }
    print(json.dumps(plain(result | {"rows": rows})))


if __name__ == "__main__":
    main()
