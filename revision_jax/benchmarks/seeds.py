"""Several runs of `launch/local.sh` at a glance: mean and spread over seeds of every search, and what each level lost.

    python -m revision_jax.benchmarks.seeds runs/local/seed0 runs/local/seed1 runs/local/seed2

Reads the `metrics.json` of the runs' searches (long/eval, unified/eval) and of retrieval/eval;
prints one table each, and one JSON line. The spread is the sample standard deviation.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from revision_jax.files import plain
from revision_jax.report.table import COLUMNS, RANKS, method_name, named_methods, print_rows

SEARCHES = {"long/eval": "LoRA a level", "unified/eval": "one LoRA for all levels (variant U)"}
SHOWN = ("R1@.1", "R1@.3", "R5@.3", "mIoU", "frames")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and sample standard deviation of a score over seeds (0 for a single seed)."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def value_at(scores: Mapping, path: Sequence[str]) -> float:
    for key in path:
        scores = scores.get(key, {}) if isinstance(scores, Mapping) else {}
    return scores if isinstance(scores, int | float) else float("nan")


def search_scores(runs: Sequence[Mapping]) -> dict[str, dict[str, dict[str, float]]]:
    """Method -> column -> mean and std, of the `metrics.json` of one search; methods that all seeds have."""
    rows = [named_methods(metrics) for metrics in runs]
    return {
        method: {column: spread([value_at(row[method], COLUMNS[column]) for row in rows]) for column in SHOWN}
        for method in rows[0]
        if all(method in row for row in rows)
    }


def level_scores(runs: Sequence[Mapping]) -> dict[str, list[dict[str, dict[str, float]]]]:
    """Method -> a row for each level that sent windows down: their share, and the events among them, over seeds."""
    levels = {
        method: [run["methods"].get(method, {}).get("search", []) for run in runs] for method in runs[0]["methods"]
    }
    return {
        method: [{key: spread([level[key] for level in place]) for key in ("sent", "recall")} for place in zip(*seeds)]
        for method, seeds in levels.items()
        if all(seeds)
    }


def read(folders: Sequence[Path], name: str) -> list[Mapping]:
    """The JSON file of every folder; none if none has it.

    Raises:
      FileNotFoundError: some have it and some do not.
    """
    paths = [folder / name for folder in folders]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing and len(missing) < len(paths):
        raise FileNotFoundError(f"{missing} not found; other seeds have it. Finish them: bash launch/local.sh --help")
    return [] if missing else [json.loads(path.read_text()) for path in paths]


def summarise(folders: Sequence[Path]) -> dict:
    """Everything the runs have, over seeds, as one dictionary; prints its tables."""
    tell = lambda score: f"{score['mean']:.1f} ± {score['std']:.1f}"
    note = f"Mean ± standard deviation over {len(folders)} seeds; percent."
    summary: dict = {"benchmark": "seeds", "seeds": len(folders)}
    for place, title in SEARCHES.items():
        runs = read(folders, f"{place}/metrics.json")
        if not runs:
            continue
        scores, levels = search_scores(runs), level_scores(runs)
        parameters = runs[0].get("trained_parameters")
        summary[Path(place).parts[0]] = {"scores": scores, "levels": levels, "trained_parameters": parameters}
        rows = [[method_name(method), *(tell(row[column]) for column in SHOWN)] for method, row in scores.items()]
        print_rows(f"{title}: {parameters:,} trained parameters", note, ["method", *SHOWN], rows)
        rows = [
            [method_name(method), str(number), tell(level["sent"]), tell(level["recall"])]
            for method, places in levels.items()
            for number, level in enumerate(places, 1)
        ]
        if rows:
            print_rows("sent down", note, ["method", "level", "windows sent down", "events among them"], rows)
    runs = [metrics["retrieval"] for metrics in read(folders, "retrieval/eval/metrics.json")]
    if runs:
        scores = {
            method: {column: spread([run["methods"][method][column] for run in runs]) for column in RANKS}
            for method in runs[0]["methods"]
        }
        summary["retrieval"] = {"clips": runs[0]["clips"], "queries": runs[0]["queries"], "scores": scores}
        rows = [[method_name(method), *(tell(row[column]) for column in RANKS)] for method, row in scores.items()]
        print_rows(f"retrieval among {runs[0]['clips']} clips", note, ["method", *RANKS], rows)
    return summary


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="root folders of launch/local.sh, one a seed")
    print(json.dumps(plain(summarise(parser.parse_args(argv).runs))))


if __name__ == "__main__":
    main()
