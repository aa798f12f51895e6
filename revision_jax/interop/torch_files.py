"""PyTorch archives (.bin, .pt, .pth), read and written. Only tensors are read: no code in them is run."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from revision_jax.interop import torchscript

SUFFIXES = (".bin", ".pt", ".pth")


def open_torch(path: str | Path) -> dict[str, Any]:
    """Key -> CPU tensor (torch), memory-mapped where the archive allows it.

    Raises:
      ValueError: the file is damaged, holds code, or anything other than named tensors.
      ImportError: PyTorch is not installed.
    """
    torch = _torch(path)
    try:
        tensors = _load(torch, path)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: holds more than tensors and was not read (weights_only refused it): {_reason(error)}"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:  # which one depends on where the zip is damaged
        raise ValueError(f"{path}: not a whole PyTorch archive ({_reason(error)}); download it again") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise ValueError(f"{path}: expected a flat mapping of names to tensors")
    return dict(tensors)


def _load(torch: Any, path: str | Path) -> Any:
    options = {"map_location": "cpu", "weights_only": True}
    try:
        return torch.load(path, mmap=True, **options)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
        return torch.load(path, **options)  # the format before PyTorch 1.6


def read_torch(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of an archive as numpy; a TorchScript archive is read too, without PyTorch."""
    if torchscript.is_torchscript(path):
        return torchscript.read_torchscript(path)
    return {key: to_numpy(tensor) for key, tensor in open_torch(path).items()}


def to_numpy(tensor: Any) -> np.ndarray:
    """A view of a CPU tensor's memory where there can be one."""
    import ml_dtypes
    import torch

    if tensor.dtype == torch.bfloat16:  # numpy has no bfloat16 of its own: carry the bits
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def save_torch(tensors: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Writes an archive that `torch.load(weights_only=True)` reads: name -> tensor."""
    torch = _torch(path)
    with Path(path).open("wb") as file:  # not by its name: torch then does not say that the disk is full
        torch.save({key: _to_torch(torch, array) for key, array in tensors.items()}, file)


def _to_torch(torch: Any, array: np.ndarray) -> Any:
    array = np.array(array, order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _torch(path: str | Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} needs PyTorch: pip install 'revision_jax[torch]', or use a safetensors file"
        ) from error
    return torch


def _reason(error: Exception) -> str:
    """What torch found, in one line, without its advice to switch the check off."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Unsupported" in line or "GLOBAL" in line or "disallowed" in line]
    return (telling or lines or [type(error).__name__])[0]
