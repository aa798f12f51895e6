"""Checkpoint files: Hugging Face safetensors directories, and PyTorch archives read as tensors only."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

_WEIGHTS = "model.safetensors"


class LazyTensor:
    """One tensor of a safetensors file: `shape` is known, the bytes are read by `np.asarray`."""

    def __init__(self, file: Any, key: str):
        self._file, self._key = file, key
        self.shape = tuple(file.get_slice(key).get_shape())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self._file.get_tensor(self._key)
        return array if dtype is None else array.astype(dtype)


class SafetensorsDirectory(Mapping[str, LazyTensor]):
    """The tensors of a Hugging Face directory: `model.safetensors`, or shards named by its index."""

    def __init__(self, directory: str | Path):
        self._tensors: dict[str, LazyTensor] = {}
        for path in _weight_files(Path(directory)):
            file = safe_open(path, framework="np")
            for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                if key in self._tensors:
                    raise ValueError(f"{path}: {key} is in another shard too")
                self._tensors[key] = LazyTensor(file, key)

    def __getitem__(self, key: str) -> LazyTensor:
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def read_config(directory: str | Path, model_type: str) -> dict[str, Any]:
    """config.json of a Hugging Face directory; ValueError when it describes another kind of model."""
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {directory} is not a Hugging Face model directory")
    config = json.loads(path.read_text())
    if config.get("model_type") != model_type:
        raise ValueError(f"{path}: model_type is {config.get('model_type')!r}, expected {model_type!r}")
    return config


def write_directory(directory: str | Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Writes config.json and one model.safetensors; other files of the directory (a tokenizer) stay."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / _WEIGHTS, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of one .safetensors, or of a .bin/.pt archive (needs torch; no code in it is run)."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    if path.suffix == ".safetensors":
        with safe_open(path, framework="np") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if path.suffix in (".bin", ".pt", ".pth"):
        return _read_torch(path)
    raise ValueError(f"{path}: cannot read {path.suffix!r}; expected .safetensors, .bin, .pt or .pth")


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs PyTorch: pip install 'revision_jax[torch]', or convert it to safetensors"
        ) from error
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(tensors, Mapping) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise ValueError(f"{path}: expected a flat mapping of names to tensors")
    return {key: _torch_to_numpy(tensor) for key, tensor in tensors.items()}


def _torch_to_numpy(tensor: Any) -> np.ndarray:
    import ml_dtypes
    import torch

    if tensor.dtype == torch.bfloat16:  # numpy has no bfloat16 of its own: carry the bits
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def _weight_files(directory: Path) -> list[Path]:
    index = directory / f"{_WEIGHTS}.index.json"
    names = {_WEIGHTS}
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
    files = [directory / name for name in sorted(names)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise FileNotFoundError(f"weight files are missing: {missing}")
    return files
