"""A Llama's weights with a LoRA merged into them, tensor by tensor: no more than one of them is in memory."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from revision_jax.interop.llama import check_tied, llama_table
from revision_jax.interop.lora import LoRA
from revision_jax.interop.table import LAYER, flat_params, match
from revision_jax.interop.weights import LazyTensor
from revision_jax.models.layers import shapes_of
from revision_jax.models.llama import Llama, LlamaConfig


class MergedLlama(Mapping[str, LazyTensor]):
    """Key -> tensor of a language model's state dict with `W + alpha / r * (A B)` where the LoRA has a part.

    Keys and shapes are those of `tensors`; buffers and the copy of a tied head are left out. Sums are in float32.

    Raises TableError where `tensors` and `config` disagree, ValueError for a tied head that differs.
    """

    def __init__(self, config: LlamaConfig, tensors: Mapping[str, Any], lora: LoRA | None, *, source: Any):
        table = llama_table(config)
        params = flat_params(shapes_of(lambda rngs: Llama(config, rngs=rngs)))
        match(table, tensors, params, source)
        check_tied(config, tensors, source)
        self._tensors = tensors
        self._lora = lora
        self._keys = [key for key in tensors if not table.is_ignored(key)]
        kernels = {path.rpartition("/")[0] for path in (lora.arrays if lora else {})}
        self._adapted = {
            row.theirs.replace(LAYER, str(index)): (row.ours.removesuffix("/kernel"), index)
            for row in table.rows
            if row.ours.removesuffix("/kernel") in kernels
            for index in range(config.num_layers)
        }

    def __getitem__(self, key: str) -> LazyTensor:
        tensor = self._tensors[key]
        return LazyTensor(tensor.shape, lambda: self._merge(key, np.asarray(tensor)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def _merge(self, key: str, weight: np.ndarray) -> np.ndarray:
        if key not in self._adapted:
            return weight
        path, layer = self._adapted[key]
        a, b = (np.asarray(self._lora.arrays[f"{path}/{half}"][layer]) for half in ("lora_a", "lora_b"))
        update = (a @ b).T  # [out, in], as the file has it
        update *= np.float32(self._lora.config.scale)
        update += weight.astype(np.float32)
        return update
