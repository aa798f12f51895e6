"""What an evaluation's answers depend on: settings, data and trained parameters, as hashes; and how many these are."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from revision_jax.data.builders.base import QUERIES
from revision_jax.data.store.features import MANIFEST
from revision_jax.models.grounder import Grounder
from revision_jax.runs.run import Run
from revision_jax.runs.splits import Split
from revision_jax.training.optimizer import Table, trained_by
from revision_jax.training.state import take_apart

FORMAT = 6  # of the predictions and of what makes them; another one starts the files anew


def answers_digest(run: Run, results: Mapping[str, Any], split: Split, grounders: Iterable[Grounder]) -> str:
    """What the answers of a search belong to.

    Args:
      run: gives windows, prompt and the pretrained parts.
      results: the settings of the search that they depend on.
      grounders: those that answer.
    """
    config, base = run.config, {role: part["sha256"] for role, part in run.fingerprints.items()}
    about = config.hierarchy, config.prompt, config.model.dtype, config.model.param_dtype, base
    trained = [parameters(grounder, config.trainable) for grounder in grounders]
    return digest(FORMAT, results, *about, file_digest(split), trained)


def digest(*parts: Any) -> str:
    """Of plain values and configs."""
    plain = lambda value: value.to_dict() if isinstance(value, ConfigDict) else str(value)
    return hashlib.sha256(json.dumps(parts, default=plain, sort_keys=True).encode()).hexdigest()


def file_digest(split: Split) -> str:
    """Of a split: its manifest, which holds the features' checksums, its queries, and which of them are used."""
    files = [split.store.path / name for name in (MANIFEST, QUERIES)]
    used = "\n".join(query.query_id for query in split.all_queries)  # `data.faults` may leave some out
    return hashlib.sha256(b"".join([*(file.read_bytes() for file in files), used.encode()])).hexdigest()


def parameters(grounder: Grounder, table: Table = ()) -> str:
    """Content of the parameters that a stage may have trained: LoRA, adapters, and what else a run's table trains."""
    _, arrays = take_apart(grounder)
    trained = {path for path in arrays if _is_added(path)}
    trained |= set(trained_by(table, arrays)) if table else set()
    total = hashlib.sha256()
    for path in sorted(trained):
        total.update(path.encode() + np.ascontiguousarray(arrays[path]).tobytes())
    return total.hexdigest()


def trained_parameters(models: Iterable[Grounder]) -> int:
    """How many parameters of LoRA and sparse adapter a search needs; what two of its models share counts once."""
    arrays: list[tuple[str, Any]] = []
    for model in models:
        arrays += [item for item in take_apart(model)[1].items() if _is_added(item[0])]
    kept = [(path, array) for path, array in arrays if not path.startswith("adapter/")]
    distinct: Mapping = {(path, np.ascontiguousarray(array).tobytes()): array.size for path, array in kept}
    return sum(distinct.values())


def _is_added(path: str) -> bool:
    """Whether a parameter stands beside the base LLM."""
    return "lora_a" in path or "lora_b" in path or path.startswith(("adapter/", "sparse/"))
