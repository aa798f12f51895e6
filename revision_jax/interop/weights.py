"""The weights of a Hugging Face directory, tensor by tensor: safetensors or PyTorch, whole or in shards."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from revision_jax.interop.torch_files import open_torch, to_numpy

SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"


class LazyTensor:
    """One tensor of a file: `shape` is known; each `np.asarray` reads the bytes again."""

    def __init__(self, shape: tuple[int, ...], read: Callable[[], np.ndarray]):
        self.shape, self._read = tuple(shape), read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self._read()
        return array if dtype is None else array.astype(dtype)


class Weights(Mapping[str, LazyTensor]):
    """Key -> tensor of a directory.

    Attributes:
      files: the weight files, in order.
      reads: key -> how often its bytes were read.
      bytes_read: of all tensors.
    """

    def __init__(self, directory: str | Path):
        self.files, keys = _weight_files(Path(directory))
        self.reads: dict[str, int] = {}
        self.bytes_read = 0
        self._tensors: dict[str, LazyTensor] = {}
        for path in self.files:
            for key, tensor in self._opened(path, [key for key, name in keys.items() if name == path.name]).items():
                if key in self._tensors:
                    raise ValueError(f"{path}: {key} is in another shard too")
                self._tensors[key] = tensor
        absent = [f"{key} ({name})" for key, name in keys.items() if key not in self._tensors]
        if absent:
            raise ValueError(f"{directory}: the index promises tensors that their shards lack: {_some(absent)}")

    def _opened(self, path: Path, promised: list[str]) -> dict[str, LazyTensor]:
        try:
            return self._open(path)
        except ValueError as error:
            raise ValueError(f"{error}; it should hold {_some(promised)}" if promised else str(error)) from error

    def _open(self, path: Path) -> dict[str, LazyTensor]:
        if path.suffix != ".safetensors":
            tensors = open_torch(path)
            return {
                key: LazyTensor(tensor.shape, self._counted(key, lambda tensor=tensor: to_numpy(tensor)))
                for key, tensor in tensors.items()
            }
        try:
            file = safe_open(path, framework="np")
        except SafetensorError as error:
            raise ValueError(f"{path}: not a whole safetensors file ({error}); download it again") from error
        return {
            key: LazyTensor(file.get_slice(key).get_shape(), self._counted(key, lambda key=key: file.get_tensor(key)))
            for key in file.keys()  # noqa: SIM118 - safe_open is not a mapping
        }

    def _counted(self, key: str, read: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
        def counted() -> np.ndarray:
            array = read()
            self.reads[key] = self.reads.get(key, 0) + 1
            self.bytes_read += array.nbytes
            return array

        return counted

    def __getitem__(self, key: str) -> LazyTensor:
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def weights_dtype(tensors: Mapping[str, Any]) -> np.dtype:
    """The dtype of the first floating-point tensor."""
    for tensor in tensors.values():
        dtype = np.asarray(tensor).dtype
        if dtype.kind not in "iub":
            return dtype
    raise ValueError("there is no tensor of floating-point numbers among the weights")


def weight_files(directory: str | Path) -> list[Path]:
    """The files of a directory that hold its weights; others, such as a second format, are not read."""
    return _weight_files(Path(directory))[0]


def _weight_files(directory: Path) -> tuple[list[Path], dict[str, str]]:
    """The files, and what an index says of them: key -> file name."""
    for name in (SAFETENSORS, PYTORCH):
        index = directory / f"{name}.index.json"
        if index.is_file():
            if (directory / name).is_file():
                raise ValueError(
                    f"{directory} holds both {name} and shards ({index.name}); which of them is meant is not ours to "
                    f"say: remove {name}, or the shards with {index.name}"
                )
            keys = json.loads(index.read_text())["weight_map"]
            files = [directory / shard for shard in sorted(set(keys.values()))]
            _check_present(files, keys, index)
            return files, keys
        if (directory / name).is_file():
            return [directory / name], {}
    raise FileNotFoundError(
        f"{directory} holds no weights: expected {SAFETENSORS} or {PYTORCH}, or shards with their index"
    )


def _check_present(files: list[Path], keys: dict[str, str], index: Path) -> None:
    missing = {path.name for path in files if not path.is_file()}
    if missing:
        needed = [key for key, name in keys.items() if name in missing]
        raise FileNotFoundError(
            f"weight files are missing: {sorted(map(str, (index.parent / name for name in missing)))}; "
            f"{index.name} says that they hold {_some(needed)}"
        )


def _some(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
