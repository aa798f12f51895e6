"""LoRA directories in the PEFT format: `adapter_config.json` and `adapter_model.{safetensors,bin}`, both ways.

Paths are those of a `Llama`: `layers/self_attn/q_proj/lora_a` [L, in, r].
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from revision_jax.interop.files import read_tensors, write_tensors
from revision_jax.interop.llama import LINEARS, is_lora_path
from revision_jax.interop.peft_config import CONFIG, Adapted, Kind, read_kind
from revision_jax.interop.table import (
    LAYER,
    TRANSPOSED,
    Row,
    Table,
    TableError,
    export_params,
    flat_params,
    import_arrays,
)
from revision_jax.models.layers import shapes_of
from revision_jax.models.llama import Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig

MODEL = "adapter_model"
PREFIX = "base_model.model."


class LoRA(NamedTuple):
    """A LoRA apart from its model: its configuration, and `arrays`, path -> float32 [L, in, r] or [L, r, out]."""

    config: LoRAConfig
    arrays: Mapping[str, np.ndarray]


def lora_table(targets: tuple[str, ...]) -> Table:
    """The rows of PEFT's state dict of a language model whose `targets` are adapted."""
    rows = []
    for block, names in LINEARS.items():
        for name in (name for name in names if name in targets):
            for half in ("A", "B"):
                theirs = f"{PREFIX}model.layers.{{layer}}.{block}.{name}.lora_{half}.weight"
                rows.append(Row(theirs, f"layers/{block}/{name}/lora_{half.lower()}", TRANSPOSED))
    return Table(tuple(rows))


def is_lora(directory: str | Path) -> bool:
    return (Path(directory) / CONFIG).is_file()


def read_lora(directory: str | Path, config: LlamaConfig) -> LoRA:
    """The LoRA of a directory for a Llama of `config`'s sizes.

    Layers of a smaller rank, or without a LoRA, are filled with zeros; where a layer's scale is not that of the
    configuration, its B takes the difference: the products are those of PEFT.

    Raises:
      ValueError: an unsupported kind, or (TableError) tensors of other modules, sizes or another rank than
        adapter_config.json says, all listed.
    """
    return lora_from(read_kind(directory, config.num_layers), read_adapter(directory), config, directory)


def read_adapter(directory: str | Path) -> dict[str, np.ndarray]:
    """Every tensor beside an adapter_config.json by PEFT's key, without the adapter's name."""
    tensors = read_tensors(lora_file(directory))
    return {key.replace(".default.weight", ".weight"): value for key, value in tensors.items()}


def lora_from(kind: Kind, tensors: Mapping[str, np.ndarray], config: LlamaConfig, directory: str | Path) -> LoRA:
    """The LoRA that a directory's configuration and tensors are.

    Raises:
      TableError: they disagree.
    """
    lora = kind.config
    model = shapes_of(lambda rngs: Llama(config, lora=lora, rngs=rngs))
    params = {name: param for name, param in flat_params(model).items() if is_lora_path(name)}
    source = f"{lora_file(directory)} (r {lora.rank}, {', '.join(lora.targets)} by {CONFIG})"
    table = lora_table(lora.targets)
    shapes = {
        row.theirs: row.transform.to_theirs(np.zeros(params[row.ours].shape[1:], np.int8)).shape for row in table.rows
    }
    tensors = _evened(kind, tensors, shapes, config.num_layers)
    return LoRA(lora, import_arrays(table, tensors, params, source=source))


def _evened(
    kind: Kind, tensors: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], num_layers: int
) -> dict[str, np.ndarray]:
    """The tensors at the configuration's rank and scale; `shapes` are those that the table's keys need."""
    evened, problems = dict(tensors), []
    for layer in range(num_layers):
        for theirs, shape in shapes.items():
            key = theirs.replace(LAYER, str(layer))
            name, _, half = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
            adapted = kind.layers.get(name)
            if adapted is None:
                if key in tensors:
                    problems.append(f"unmapped: {key} is there, but {CONFIG} does not adapt that layer")
                evened[key] = np.zeros(shape, np.float32)
            elif key in tensors:
                evened[key], wrong = _evened_half(np.asarray(tensors[key]), half, adapted, kind)
                problems += [f"misshapen: {key} is {wrong}, not of rank {adapted.rank}"] if wrong else []
    if problems:
        raise TableError("\n  ".join([f"{CONFIG} and the tensors disagree:", *problems]))
    return evened


def _evened_half(array: np.ndarray, half: str, adapted: Adapted, kind: Kind) -> tuple[np.ndarray, tuple | None]:
    """(the tensor at the configuration's rank and scale, its shape where its rank is wrong)."""
    rank, axis = kind.config.rank, 0 if half == "A" else 1
    wrong = None
    if adapted.rank != rank:  # a tensor of the configuration's own rank is checked by the table
        wrong = array.shape if array.ndim != 2 or array.shape[axis] != adapted.rank else None
        missing = [(0, 0), (0, 0)]
        missing[axis] = (0, rank - adapted.rank)
        array = array if wrong else np.pad(array, missing)
    if half == "B" and not math.isclose(adapted.scale, kind.config.scale, rel_tol=1e-12):
        array = array.astype(np.float32) * np.float32(adapted.scale / kind.config.scale)
    return array, wrong


def write_lora(lora: LoRA, directory: str | Path, *, base: str, dtype: Any = np.float32) -> None:
    """Writes a LoRA as PEFT does, as safetensors; `base` names the model it belongs to."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = export_params(lora_table(lora.config.targets), lora.arrays)
    tensors = {key: value.astype(dtype) for key, value in tensors.items()}
    write_tensors(tensors, directory / f"{MODEL}.safetensors")
    alpha = lora.config.alpha
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.config.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,  # whole where it can be, as PEFT writes it
        "lora_dropout": lora.config.dropout,
        "target_modules": list(lora.config.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def lora_file(directory: str | Path) -> Path:
    """The weights beside an adapter_config.json."""
    for suffix in (".safetensors", ".bin"):
        path = Path(directory) / f"{MODEL}{suffix}"
        if path.is_file():
            return path
    raise FileNotFoundError(f"{directory} holds no {MODEL}.safetensors and no {MODEL}.bin")
