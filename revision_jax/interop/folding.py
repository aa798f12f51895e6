"""A Llama with an adapter of PEFT folded into it, tensor by tensor: LoRA, DoRA, and modules that were trained whole.

DoRA (arXiv 2402.09353): a row of `W + scale * B A` has the length that its magnitude says. A run's LoRA stands beside a
base that it does not change, so that it can hold neither magnitudes nor whole modules.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from revision_jax.interop.lora import PREFIX, lora_file, lora_from, read_adapter
from revision_jax.interop.merged import MergedLlama
from revision_jax.interop.peft_config import CONFIG, Kind, read_kind
from revision_jax.interop.table import TableError
from revision_jax.interop.weights import LazyTensor
from revision_jax.models.llama import LlamaConfig

_MAGNITUDE = ".lora_magnitude_vector"
_SAVED = {"lm_head": "lm_head.weight", "embed_tokens": "model.embed_tokens.weight"}


class FoldedLlama(Mapping[str, LazyTensor]):
    """Key -> tensor of a `LlamaForCausalLM` with what PEFT computes with an adapter's directory, in float32.

    Raises:
      FileNotFoundError, ValueError: as `read_lora`; magnitudes or modules that are missing, misshapen or not
        promised by adapter_config.json; a whole module beside a tied head.
    """

    def __init__(self, config: LlamaConfig, tensors: Mapping[str, Any], adapter: str | Path, *, source: Any):
        kind = read_kind(adapter, config.num_layers, fold=True)
        if kind.saved and config.tie_word_embeddings:
            raise ValueError(
                f"{adapter}/{CONFIG}: modules_to_save is {list(kind.saved)}, but the head of {source} is tied to its "
                "embeddings; expected a base with a head of its own"
            )
        halves, self._lengths, self._saved = _sorted(read_adapter(adapter))
        problems = _problems(kind, self._lengths, self._saved, tensors)
        if problems:
            raise TableError("\n  ".join([f"{lora_file(adapter)}: {CONFIG} and the tensors disagree:", *problems]))
        self._merged = MergedLlama(config, tensors, lora_from(kind, halves, config, adapter), source=source)

    def __getitem__(self, key: str) -> LazyTensor:
        tensor = self._merged[key]
        if key in self._saved:
            return LazyTensor(tensor.shape, lambda: self._saved[key])
        if key not in self._lengths:
            return tensor
        return LazyTensor(tensor.shape, lambda: _with_lengths(np.asarray(tensor), self._lengths[key]))

    def __iter__(self) -> Iterator[str]:
        return iter(self._merged)

    def __len__(self) -> int:
        return len(self._merged)


def _with_lengths(weight: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[out, in] with rows of these lengths [out]."""
    return weight * (lengths.astype(np.float32) / np.linalg.norm(weight, axis=1))[:, None]


def _sorted(tensors: Mapping[str, np.ndarray]) -> tuple[dict, dict, dict]:
    """(halves of LoRA by PEFT's key, magnitudes and whole modules by the key of the base's weight)."""
    halves, lengths, saved = {}, {}, {}
    for key, array in tensors.items():
        name = key.removeprefix(PREFIX)
        if name in _SAVED.values():
            saved[name] = array
        elif name.removesuffix(".weight").endswith(_MAGNITUDE):
            lengths[name.removesuffix(".weight").removesuffix(_MAGNITUDE) + ".weight"] = array
        else:
            halves[key] = array
    return halves, lengths, saved


def _problems(kind: Kind, lengths: Mapping, saved: Mapping, base: Mapping[str, Any]) -> list[str]:
    wanted = {f"{name}.weight": base[f"{name}.weight"].shape[:1] for name in kind.layers} if kind.dora else {}
    problems = _differences("a magnitude of", wanted, lengths)
    return problems + _differences("whole", {_SAVED[name]: base[_SAVED[name]].shape for name in kind.saved}, saved)


def _differences(what: str, wanted: Mapping[str, tuple], found: Mapping[str, np.ndarray]) -> list[str]:
    """A line for each array that is missing, not wanted or of another shape."""
    lines = [f"unfilled: {what} {key} is missing" for key in wanted if key not in found]
    lines += [f"unmapped: {what} {key} is there" for key in found if key not in wanted]
    return lines + [
        f"misshapen: {what} {key} is {found[key].shape}, not {tuple(shape)}"
        for key, shape in wanted.items()
        if key in found and found[key].shape != tuple(shape)
    ]
