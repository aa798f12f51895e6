"""The weights of a Hugging Face directory, tensor by tensor: safetensors or PyTorch, whole or in shards."""

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from revision_jax.interop.torch_files import open_torch, to_numpy
from revision_jax.text import read_object

SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"
log = logging.getLogger(__name__)


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
        file = open_safetensors(path)
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
        index, whole = directory / f"{name}.index.json", directory / name
        if index.is_file():
            keys = _read_index(index)
            files = [directory / shard for shard in sorted(set(keys.values()))]
            _check_present(files, keys, index)
            if not whole.is_file():
                return files, keys
            _check_equal(whole, index, tuple(_stamp(path) for path in (whole, *files)))
        if whole.is_file():
            return [whole], {}  # as transformers does, also beside shards
    raise FileNotFoundError(
        f"{directory} holds no weights: expected {SAFETENSORS} or {PYTORCH}, or shards with their index"
    )


def _read_index(index: Path) -> dict[str, str]:
    """Key -> file name of an index; ValueError where it is none, or names files elsewhere."""
    keys = read_object(index).get("weight_map")
    if not isinstance(keys, dict) or not keys:
        raise ValueError(f"{index}: weight_map is {str(keys)[:80]}; expected an object, tensor -> file")
    elsewhere = [name for name in keys.values() if not isinstance(name, str) or name != Path(name).name or "\0" in name]
    if elsewhere:
        found = str(sorted({str(name) for name in elsewhere}))[:200]
        raise ValueError(f"{index}: weight_map names {found}; expected names of files beside it")
    return keys


def _stamp(path: Path) -> tuple[Path, int, int]:
    """A file, and what changes with its content."""
    stat = path.stat()
    return path.absolute(), stat.st_size, stat.st_mtime_ns


@functools.cache
def _check_equal(whole: Path, index: Path, stamps: tuple[tuple[Path, int, int], ...]) -> None:
    """Raises ValueError where a single file and shards beside it are not the same tensors; once a process for the same
    files (`stamps`)."""
    log.info("%s stands beside shards: compares them", whole)
    one, shards = _open(whole), {}
    for path, _, _ in stamps[1:]:
        shards |= _open(path)
    differing = sorted(one.keys() ^ shards.keys()) or [
        key
        for key, read in one.items()
        if (a := read()).dtype != (b := shards[key]()).dtype or a.shape != b.shape or a.tobytes() != b.tobytes()
    ]
    if differing:
        raise ValueError(
            f"{whole.parent} holds both {whole.name} and shards ({index.name}), which differ in {_some(differing)}; "
            f"which of them is meant is not ours to say: remove {whole.name}, or the shards with {index.name}"
        )


def _open(path: Path) -> dict[str, Callable[[], np.ndarray]]:
    """Key -> what reads the tensor."""
    if path.suffix != ".safetensors":
        return {key: functools.partial(to_numpy, tensor) for key, tensor in open_torch(path).items()}
    file = open_safetensors(path)
    return {key: functools.partial(file.get_tensor, key) for key in file.keys()}  # noqa: SIM118 - no mapping


def open_safetensors(path: Path) -> Any:
    """A file of safetensors, its header checked: sizes, places and the length of the whole.

    Raises:
      ValueError: it is none, or not whole.
    """
    try:
        return safe_open(path, framework="np")
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); download it again") from error


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
