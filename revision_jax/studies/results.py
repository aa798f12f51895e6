"""`results.json` of a study: where its numbers come from, and for each row its scores a seed and their means."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from revision_jax.metrics.spread import over_seeds
from revision_jax.studies import facts
from revision_jax.studies.columns import COLUMNS, bounds_of, scores_of, value_of
from revision_jax.studies.grid import Chain, Row, Study
from revision_jax.studies.joined import VERSION

FILE = "results.json"
Outcome = Mapping[str, Any]  # of a row and a seed: what `outcome` or `failure` gave


def outcome(chain: Chain, trained: Sequence[Mapping], scored: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a row gave for a seed.

    Args:
      trained: what `trained.json` says, a stage each; scored: what `scored.json` says.
      folder: of the study, to which places are relative.
    """
    metrics, place = scored["metrics"], lambda path: os.path.relpath(path, folder)
    scores = scores_of(metrics, chain.row.method)
    return {
        "stages": [
            {"name": link.name, "folder": place(link.folder), "key": link.key}
            | {name: said[name] for name in ("steps", "minutes", "commit")}
            for link, said in zip(chain.links, trained, strict=True)
        ],
        "evaluation": {"folder": place(chain.folder), "minutes": scored["minutes"], "commit": scored["commit"]},
        "steps": sum(said["steps"] for said in trained),
        "minutes": {"train": sum(said["minutes"] for said in trained), "evaluate": scored["minutes"]},
        "parameters": metrics["trained_parameters"] or trained[-1]["parameters"],
        "queries": {name: metrics[name] for name in ("present", "absent")} | _clips(metrics),
        "scores": scores,
        "metrics": {name: metrics[name] for name in ("split", "data", "protocol", "levels")},
    }


def _clips(metrics: Mapping[str, Any]) -> dict[str, int]:
    """Queries of retrieval."""
    return {"asked": metrics["retrieval"]["queries"]} if metrics["retrieval"] else {}


def failure(error: Exception) -> dict[str, Any]:
    """What a row gave that failed."""
    return {"error": f"{type(error).__name__}: {error}"}


def summarise(row: Row, study: Study, found: Mapping[int, Outcome]) -> dict[str, Any]:
    """A row over its seeds.

    Args:
      found: seed -> what it gave.
    """
    whole = {seed: one for seed, one in found.items() if "error" not in one}
    mean = lambda pick: float(np.mean([pick(one) for one in whole.values()])) if whole else None
    return {
        "name": row.name, "series": row.series, "point": row.point, "method": row.method, "paper": row.paper,
        "parameters": max((one["parameters"] for one in whole.values()), default=None),
        "steps": max((one["steps"] for one in whole.values()), default=None),
        "minutes": {
            "train": mean(lambda one: one["minutes"]["train"]), "evaluate": mean(lambda one: one["minutes"]["evaluate"])
        },
        "seeds": len(whole),
        "values": {name: _spread(name, whole) for name in dict.fromkeys((*study.columns, *study.plotted))},
        "by_seed": {str(seed): one for seed, one in found.items()},
    }  # fmt: skip


def _spread(name: str, whole: Mapping[int, Outcome]) -> dict[str, Any] | None:
    """Mean, interval and values of a column; None where a seed has no value."""
    values = [value_of(one["scores"], name) for one in whole.values()]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    bounds = [bounds_of(one["queries"], one["scores"], name) for one in whole.values()]
    return over_seeds(known, bounds, COLUMNS[name].most)._asdict() | {"by_seed": known}


def results(
    study: Study,
    seeds: Sequence[int],
    found: Mapping[str, Mapping[int, Outcome]],
    here: Sequence[int],
    joined: Sequence[Mapping] = (),
) -> dict[str, Any]:
    """What `results.json` holds.

    Args:
      found: name of a row -> seed -> what it gave; rows that were not reached yet have no seeds.
      here: seeds of which this machine did a row at least.
      joined: where rows come from that were done elsewhere, see `joined.Joined.sources`.
    """
    return {
        "version": VERSION,
        "study": study.name,
        "question": study.question,
        "config_sha256": study.sha256(),
        "fields": dict(study.fields),
        "seeds": list(seeds),
        "here": list(here),
        "commit": facts.commit(),
        "machine": facts.machine(),
        "versions": facts.versions(),
        "joined": list(joined),
        "columns": list(study.columns),
        "plotted": list(study.plotted),
        "line": study.line,
        "paper": study.paper,
        "rows": [summarise(row, study, _in_order(found.get(row.name, {}), seeds)) for row in study.rows],
    }


def _in_order(found: Mapping[int, Outcome], seeds: Sequence[int]) -> dict[int, Outcome]:
    return {seed: found[seed] for seed in seeds if seed in found}
