"""ReVisionLLM stage directories, both ways: a PEFT LoRA and `non_lora_trainables.bin`, with `mm_projector.bin` beside.

`non_lora_trainables.bin` holds what was trained beside the LoRA, under `base_model.model.model.`: the sparse adapter
after the sparse stage, nothing after the others. The frozen projector or adapter is then in a file of its own,
`mm_projector.bin` (as VTimeLLM's, under `model.`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from revision_jax.interop.adapter import adapter_tensors, dense_adapter_from, sparse_adapter_from
from revision_jax.interop.files import read_tensors
from revision_jax.interop.lora import LoRA, read_lora, write_lora
from revision_jax.interop.table import flat_params
from revision_jax.interop.torch_files import save_torch
from revision_jax.interop.unified import is_unified, read_unified, write_unified
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.llama import LlamaConfig

NON_LORA, PROJECTOR = "non_lora_trainables.bin", "mm_projector.bin"
_PREFIXES = ("base_model.", "model.", "model.")  # stripped in this order, each once
_MODULE = "mm_projector."

Adapter = DenseAdapter | SparseAdapter | Mapping[str, np.ndarray]  # the last: variant U's arrays by path


class Stage(NamedTuple):
    """A stage directory.

    Attributes:
      lora: its LoRA.
      trained: the adapter that was trained with it, None where none was.
      frozen: the adapter in `mm_projector.bin`, None where there is no such file.
    """

    lora: LoRA
    trained: Adapter | None
    frozen: Adapter | None


def read_stage(directory: str | Path, config: LlamaConfig, **sparse_options: float) -> Stage:
    """A stage directory for a Llama of `config`'s sizes.

    Args:
      sparse_options: `num_heads` and `dropout` of a sparse adapter, which are not in its tensors.

    Raises:
      ValueError: tensors of another layout, listed.
      FileNotFoundError: no adapter_config.json.
    """
    directory = Path(directory)
    lora = read_lora(directory, config)
    adapters = [_read_adapter(directory / name, sparse_options) for name in (NON_LORA, PROJECTOR)]
    for adapter, name in zip(adapters, (NON_LORA, PROJECTOR)):
        _check_width(adapter, config, directory / name)
    return Stage(lora, *adapters)


def write_stage(stage: Stage, directory: str | Path, *, base: str, dtype: np.dtype | type = np.float32) -> None:
    """Writes a stage directory; `base` names the Llama that the LoRA belongs to. Needs torch (`.bin` files)."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_lora(stage.lora, directory, base=base, dtype=dtype)
    _write_adapter(stage.trained, "".join(_PREFIXES), directory / NON_LORA, dtype)
    if stage.frozen is not None:
        write_projector(stage.frozen, directory / PROJECTOR, dtype=dtype)


def write_projector(adapter: Adapter, path: str | Path, *, dtype: np.dtype | type = np.float32) -> None:
    """Writes a frozen adapter as `mm_projector.bin`."""
    _write_adapter(adapter, "model.", Path(path), dtype)


def adapter_arrays(adapter: Adapter | None) -> dict[str, np.ndarray]:
    """An adapter's arrays by their path in a grounder: `adapter/...`, `sparse/...`; `unified/...` for variant U's."""
    if adapter is None:
        return {}
    if isinstance(adapter, Mapping):
        return {f"unified/{path}": array for path, array in adapter.items()}
    name = "adapter" if isinstance(adapter, DenseAdapter) else "sparse"
    return {f"{name}/{path}": np.asarray(param[...]) for path, param in flat_params(adapter).items()}


def _read_adapter(path: Path, sparse_options: Mapping[str, float]) -> Adapter | None:
    tensors = _stripped(read_tensors(path)) if path.is_file() else {}
    if not tensors:
        return None
    if is_unified(tensors):
        return read_unified(tensors, str(path))
    strangers = [key for key in tensors if not key.startswith(_MODULE)]
    if strangers:
        raise ValueError(
            f"{path}: {strangers} are trained tensors of no known layout; expected those of mm_projector (dense or "
            "sparse), or of variant U (cross_attn, alternate_layer_norm)"
        )
    tensors = {key.removeprefix(_MODULE): value for key, value in tensors.items()}
    if set(tensors) == {"weight", "bias"}:
        return dense_adapter_from(tensors, source=path)
    return sparse_adapter_from(tensors, source=path, **sparse_options)


def _stripped(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    stripped = {}
    for key, value in tensors.items():
        name = key
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if name in stripped:
            raise ValueError(f"ambiguous: {key} and another key are both {name} without their prefixes")
        stripped[name] = value
    return stripped


def _check_width(adapter: Adapter | None, config: LlamaConfig, path: Path) -> None:
    if adapter is None:
        return
    if isinstance(adapter, Mapping):
        key, width = "cross_attn.global_rep_token", adapter["cross_attn/global_rep_token"].shape[0]
    elif isinstance(adapter, DenseAdapter):
        key, width = "mm_projector.weight", adapter.kernel.shape[1]
    else:
        key, width = "mm_projector.mm_projector.weight", adapter.mm_projector.kernel.shape[1]
    if width != config.hidden_size:
        raise ValueError(f"{path}: {key} gives width {width}; the LLM has {config.hidden_size}")


def _write_adapter(adapter: Adapter | None, prefix: str, path: Path, dtype: np.dtype | type) -> None:
    tensors = {} if adapter is None else _published(adapter)
    save_torch({f"{prefix}{key}": value.astype(dtype) for key, value in tensors.items()}, path)


def _published(adapter: Adapter) -> dict[str, np.ndarray]:
    return write_unified(adapter) if isinstance(adapter, Mapping) else adapter_tensors(adapter)
