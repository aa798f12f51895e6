"""LoRA directories in the PEFT format: `adapter_config.json` and `adapter_model.{safetensors,bin}`, both ways.

Paths are those of a `Llama`: `layers/self_attn/q_proj/lora_a` [L, in, r].
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from revision_jax.interop.files import read_tensors
from revision_jax.interop.llama import LINEARS, is_lora_path
from revision_jax.interop.table import (
    TRANSPOSED,
    Row,
    Table,
    export_params,
    flat_params,
    import_arrays,
)
from revision_jax.models.llama import Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig
from revision_jax.models.names import LORA_TARGETS

CONFIG, MODEL = "adapter_config.json", "adapter_model"
# What would change the arithmetic, with the value that does not.
_PLAIN = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "use_rslora": (None, False),
    "use_dora": (None, False),
    "fan_in_fan_out": (None, False),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layers_to_transform": (None, []),
    "exclude_modules": (None, [], ""),
}


class LoRA(NamedTuple):
    """A LoRA apart from its model: its configuration, and `arrays`, path -> float32 [L, in, r] or [L, r, out]."""

    config: LoRAConfig
    arrays: Mapping[str, np.ndarray]


def lora_table(targets: tuple[str, ...]) -> Table:
    """The rows of PEFT's state dict of a `LlamaForCausalLM` whose `targets` are adapted."""
    rows = []
    for block, names in LINEARS.items():
        for name in (name for name in names if name in targets):
            for half in ("A", "B"):
                theirs = f"base_model.model.model.layers.{{layer}}.{block}.{name}.lora_{half}.weight"
                rows.append(Row(theirs, f"layers/{block}/{name}/lora_{half.lower()}", TRANSPOSED))
    return Table(tuple(rows))


def is_lora(directory: str | Path) -> bool:
    return (Path(directory) / CONFIG).is_file()


def read_lora_config(directory: str | Path) -> LoRAConfig:
    """The `LoRAConfig` of an adapter_config.json. ValueError for what ours lacks, listing all of it."""
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {directory} is not a LoRA directory in the PEFT format")
    raw = json.loads(path.read_text())
    faults = [
        f"{key} is {raw[key]!r}; expected {plain[-1]!r}"
        for key, plain in _PLAIN.items()
        if key in raw and raw[key] not in plain
    ]
    targets = raw.get("target_modules") or []
    named = [targets] if isinstance(targets, str) else sorted({str(name).rpartition(".")[2] for name in targets})
    strangers = [name for name in named if name not in LORA_TARGETS]
    if strangers or not named:
        faults.append(f"target_modules {strangers or targets} are none of {list(LORA_TARGETS)}")
    if faults:
        raise ValueError(f"{path}: this LoRA is not supported:\n  " + "\n  ".join(faults))
    ordered = tuple(name for name in LORA_TARGETS if name in named)
    return LoRAConfig(raw["r"], float(raw["lora_alpha"]), float(raw.get("lora_dropout") or 0.0), ordered)


def read_lora(directory: str | Path, config: LlamaConfig) -> LoRA:
    """The LoRA of a directory for a Llama of `config`'s sizes.

    Raises:
      ValueError: an unsupported kind, or (TableError) tensors of other modules, sizes or another rank than
        adapter_config.json says, all listed.
    """
    lora = read_lora_config(directory)
    path = lora_file(directory)
    tensors = {key.replace(".default.weight", ".weight"): value for key, value in read_tensors(path).items()}
    model = nnx.eval_shape(lambda: Llama(config, lora=lora, rngs=nnx.Rngs(0)))
    params = {name: param for name, param in flat_params(model).items() if is_lora_path(name)}
    source = f"{path} (r {lora.rank}, {', '.join(lora.targets)} by {CONFIG})"
    return LoRA(lora, import_arrays(lora_table(lora.targets), tensors, params, source=source))


def write_lora(lora: LoRA, directory: str | Path, *, base: str, dtype: Any = np.float32) -> None:
    """Writes a LoRA as PEFT does, as safetensors; `base` names the model it belongs to."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = export_params(lora_table(lora.config.targets), lora.arrays)
    tensors = {key: value.astype(dtype) for key, value in tensors.items()}
    save_file(tensors, directory / f"{MODEL}.safetensors", metadata={"format": "pt"})
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
