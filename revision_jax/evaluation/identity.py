"""What an evaluation's answers depend on: settings, data and trained parameters, as hashes; and how many these are."""

import hashlib
import json
from pathlib import Path

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from revision_jax.data.builders.base import QUERIES
from revision_jax.data.store.features import MANIFEST


def digest(*parts) -> str:
    plain = lambda value: value.to_dict() if isinstance(value, ConfigDict) else str(value)
    return hashlib.sha256(json.dumps(parts, default=plain, sort_keys=True).encode()).hexdigest()


def file_digest(directory: Path) -> str:
    """Of a data set: its manifest, which holds the features' checksums, and its queries."""
    return hashlib.sha256(b"".join((Path(directory) / name).read_bytes() for name in (MANIFEST, QUERIES))).hexdigest()


def _trainable(grounder) -> dict:
    """Path -> parameters that a stage may have trained: LoRA and adapters; the base is fixed by the run."""
    return {
        path: np.ascontiguousarray(parameter.get_value())
        for path, parameter in sorted(nnx.to_flat_state(nnx.state(grounder)), key=lambda item: str(item[0]))
        if "lora_a" in path or "lora_b" in path or path[0] in ("adapter", "sparse")
    }


def parameters(grounder) -> str:
    """Content of the parameters that a stage may have trained."""
    total = hashlib.sha256()
    for path, array in _trainable(grounder).items():
        total.update(str(path).encode() + array.tobytes())
    return total.hexdigest()


def trained_parameters(models) -> int:
    """How many parameters of LoRA and sparse adapter a search needs; what two of its models share counts once."""
    arrays = [item for model in models for item in _trainable(model).items() if item[0][0] != "adapter"]
    distinct = {(path, array.tobytes()): array.size for path, array in arrays}
    return sum(distinct.values())
