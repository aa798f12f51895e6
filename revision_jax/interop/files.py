"""Small checkpoint files: a directory's config.json, and files that are read and written whole."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from revision_jax.interop.torch_files import SUFFIXES, read_torch
from revision_jax.interop.weights import SAFETENSORS
from revision_jax.text import read_object

# Far above what has been built.
LIMITS = {
    "num_hidden_layers": 1000, "hidden_size": 2**17, "intermediate_size": 2**20, "vocab_size": 2**24, "head_dim": 2**14,
    "num_attention_heads": 2**12, "num_key_value_heads": 2**12, "max_position_embeddings": 2**30, "image_size": 2**14,
    "patch_size": 2**14, "projection_dim": 2**17,
}  # fmt: skip


def load_config(directory: str | Path) -> dict[str, Any]:
    """config.json of a Hugging Face directory; FileNotFoundError where there is none."""
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {directory} is not a Hugging Face model directory")
    config = read_object(path)
    check_sizes(config, path)
    return config


def read_config(directory: str | Path, model_type: str) -> dict[str, Any]:
    """As `load_config`; ValueError when it describes another kind of model."""
    config = load_config(directory)
    if config.get("model_type") != model_type:
        raise ValueError(
            f"{directory}/config.json: model_type is {config.get('model_type')!r}, expected {model_type!r}"
        )
    return config


def check_sizes(config: Mapping[str, Any], path: Path) -> None:
    """Raises ValueError for a size, also in a nested config, that no model has: it would fill the memory unseen."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            check_sizes(value, path)
        elif key in LIMITS and type(value) is int and value > LIMITS[key]:
            raise ValueError(f"{path}: {key} is {value!s:.80}; expected at most {LIMITS[key]}")


def write_directory(directory: str | Path, config: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Writes config.json and one model.safetensors; other files of the directory (a tokenizer) stay."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(tensors, directory / SAFETENSORS)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_tensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    """One .safetensors, whole or not at all, with the mode that any new file gets here.

    safetensors alone makes files that only their owner can read, whatever the umask says.
    """
    part = path.with_name(path.name + ".tmp")
    part.touch()
    mode = part.stat().st_mode
    save_file(tensors, part, metadata={"format": "pt"})
    part.chmod(mode)
    os.replace(part, path)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of one .safetensors, or of a .bin/.pt archive (needs torch; no code in it is run)."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a whole safetensors file ({error}); download it again") from error
    if path.suffix in SUFFIXES:
        return read_torch(path)
    raise ValueError(f"{path}: cannot read {path.suffix!r}; expected .safetensors, {', '.join(SUFFIXES)}")
