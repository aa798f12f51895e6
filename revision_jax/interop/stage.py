"""ReVisionLLM stage directories, both ways: a PEFT LoRA and `non_lora_trainables.bin`, with `mm_projector.bin` beside.

`non_lora_trainables.bin` holds what was trained beside the LoRA, under `base_model.model.model.`: the sparse adapter
after the sparse stage, nothing after the others, of variant U its norm and adapters (`unified`). The frozen projector
or adapter is then in a file of its own, `mm_projector.bin` (as VTimeLLM's, under `model.`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from revision_jax.interop.files import read_tensors
from revision_jax.interop.lora import LoRA, read_lora, write_lora
from revision_jax.interop.torch_files import save_torch
from revision_jax.interop.unified import CROSSED, joined, read_visual, write_visual
from revision_jax.models.llama import LlamaConfig
from revision_jax.models.visual import Visual

NON_LORA, PROJECTOR = "non_lora_trainables.bin", "mm_projector.bin"
_PREFIXES = ("base_model.", "model.", "model.")  # stripped in this order, each once


class Stage(NamedTuple):
    """A stage directory.

    Attributes:
      lora: its LoRA.
      trained: the modules that were trained with it, None where none were.
      frozen: the adapter in `mm_projector.bin`, None where there is no such file.
      crossed: whether the sparse adapter has the name `cross_attn` (variant U), not `mm_projector`.
    """

    lora: LoRA
    trained: Visual | None
    frozen: Visual | None
    crossed: bool = False

    @property
    def visual(self) -> Visual:
        """All modules, the trained ones before the frozen ones."""
        return joined(self.trained, self.frozen)


def read_stage(directory: str | Path, config: LlamaConfig, **sparse_options: Any) -> Stage:
    """A stage directory for a Llama of `config`'s sizes.

    Args:
      sparse_options: `num_heads`, `dropout` and `precision` of a sparse adapter, which are not in its tensors.

    Raises:
      ValueError: tensors of another layout, listed.
      FileNotFoundError: no adapter_config.json.
    """
    directory = Path(directory)
    lora = read_lora(directory, config)
    files = [directory / name for name in (NON_LORA, PROJECTOR)]
    (trained, one), (frozen, other) = (_read_visual(path, sparse_options) for path in files)
    for visual, path in zip((trained, frozen), files):
        _check_width(visual, config, path)
    return Stage(lora, trained, frozen, one or other)


def write_stage(stage: Stage, directory: str | Path, *, base: str, dtype: np.dtype | type = np.float32) -> None:
    """Writes a stage directory; `base` names the Llama that the LoRA belongs to. Needs torch (`.bin` files)."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_lora(stage.lora, directory, base=base, dtype=dtype)
    _write(stage.trained, "".join(_PREFIXES), directory / NON_LORA, stage.crossed, dtype)
    if stage.frozen is not None:
        write_projector(stage.frozen, directory / PROJECTOR, crossed=stage.crossed, dtype=dtype)


def write_projector(
    visual: Visual, path: str | Path, *, crossed: bool = False, dtype: np.dtype | type = np.float32
) -> None:
    """Writes a frozen adapter as `mm_projector.bin`; `crossed` as in `Stage`."""
    _write(visual, "model.", Path(path), crossed, dtype)


def _read_visual(path: Path, sparse_options: Mapping[str, Any]) -> tuple[Visual | None, bool]:
    """A file's modules, and whether the sparse adapter is under `cross_attn`."""
    tensors = _stripped(read_tensors(path)) if path.is_file() else {}
    if not tensors:
        return None, False
    return read_visual(tensors, str(path), **sparse_options), any(key.startswith(CROSSED) for key in tensors)


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


def _check_width(visual: Visual | None, config: LlamaConfig, path: Path) -> None:
    if visual is None:
        return
    widths = visual.hidden_sizes if visual.norm is None else (*visual.hidden_sizes, visual.norm.scale.shape[0])
    for width in widths:
        if width != config.hidden_size:
            raise ValueError(f"{path}: its tensors give width {width}; the LLM has {config.hidden_size}")


def _write(visual: Visual | None, prefix: str, path: Path, crossed: bool, dtype: np.dtype | type) -> None:
    tensors = {} if visual is None else write_visual(visual, crossed)
    save_torch({f"{prefix}{key}": value.astype(dtype) for key, value in tensors.items()}, path)
