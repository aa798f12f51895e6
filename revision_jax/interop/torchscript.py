"""The tensors of a TorchScript archive, without PyTorch: its code is neither compiled nor run.

Such an archive (OpenAI's CLIP files are some) is a zip of `data.pkl`, which describes nested modules, of the raw
bytes of each tensor under `data/`, and of code, which is left alone. The pickle is read by an unpickler that knows
nothing but the names below; modules become empty shells that hold their attributes.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


def is_torchscript(path: str | Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with a table of constants beside its data."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    return "constants.pkl" in names and "data.pkl" in names


def read_torchscript(path: str | Path) -> dict[str, np.ndarray]:
    """Dotted attribute path -> array, of every tensor of the archive's modules.

    Raises:
      ValueError: the archive is damaged, or its pickle names anything else than modules and tensors.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            root = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            module = _Unpickler(archive, root.removesuffix("data.pkl")).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a TorchScript archive of modules and tensors ({error})") from error
    return dict(_tensors(module, ""))


class _Shell:
    """A module: its attributes, no methods."""

    def __setstate__(self, state: Any) -> None:
        self.attributes = state


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self._archive, self._folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Shell
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle":  # typed lists of plain values
            return list
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of a tensor")

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, size = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"it refers to a {kind!r}; expected the storage of a tensor")
        storage = np.frombuffer(self._archive.read(f"{self._folder}data/{key}"), dtype)
        if len(storage) != size:
            raise pickle.UnpicklingError(f"data/{key} holds {len(storage)} values; expected {size}")
        return storage


def _rebuild(storage: np.ndarray, offset: int, shape: tuple, stride: tuple, *_: Any) -> np.ndarray:
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride))
    if min((offset, *stride, *shape), default=0) < 0 or (np.prod(shape) and last >= len(storage)):
        raise pickle.UnpicklingError(f"a tensor of shape {shape} does not fit its {len(storage)} values")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides, writeable=False)


def _tensors(value: Any, path: str):
    if isinstance(value, np.ndarray):
        yield path, value
    elif isinstance(value, _Shell) and isinstance(value.attributes, dict):
        for name, child in value.attributes.items():
            yield from _tensors(child, f"{path}.{name}" if path else name)
