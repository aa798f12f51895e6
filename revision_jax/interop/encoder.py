"""What the file of an encoder says of it (`EncoderKind`), and the loading, saving and rows that all encoders share."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from revision_jax.interop.files import write_directory
from revision_jax.interop.model_keys import TOWER_HARMLESS
from revision_jax.interop.pictures import PictureRules, read_pictures
from revision_jax.interop.table import TRANSPOSED, Row, Table, export_params, flat_params, import_params
from revision_jax.interop.weights import Weights
from revision_jax.known_keys import Kind, check_keys, check_kinds
from revision_jax.models.encoder import EncoderConfig, ImageTextEncoder
from revision_jax.models.layers import shapes_of
from revision_jax.models.towers import TowerConfig


class TextRules(NamedTuple):
    """How the sentences of a kind of encoder become tokens.

    Attributes:
      starts: tokens that stand in front of a sentence; behind it stands its end token.
      full: whether all tokens are seen, the padding too, so that their number must be that of training; the padding
        token is then the tokenizer's. Otherwise nothing after the end is seen, and the end token pads.
    """

    starts: int
    full: bool


class EncoderKind(NamedTuple):
    """A kind of encoder: its file in `models/`, and how a Hugging Face directory describes it.

    Attributes:
      name: `model_type` of config.json.
      make: its model, see `models.encoder.ImageTextEncoder`.
      read_config: directory -> its sizes. to_config: sizes -> what config.json holds, the inverse.
    """

    name: str
    make: type[ImageTextEncoder]
    table: Table
    pictures: PictureRules
    text: TextRules
    read_config: Callable[[str | Path], EncoderConfig]
    to_config: Callable[[Any], dict[str, Any]]


def abstract(kind: EncoderKind, config: EncoderConfig, dtype: jax.typing.DTypeLike = jnp.float32) -> ImageTextEncoder:
    """An encoder that computes in `dtype`, its parameters shapes and types."""
    return shapes_of(lambda rngs: kind.make(config, dtype=dtype, rngs=rngs))


def load(kind: EncoderKind, directory: str | Path, dtype: jax.typing.DTypeLike = jnp.float32) -> ImageTextEncoder:
    """An encoder with a directory's weights in float32; activations are `dtype`.

    Raises ValueError where the files and the model disagree or pictures would be prepared otherwise, FileNotFoundError
    for missing files.
    """
    config = kind.read_config(directory)
    read_pictures(directory, kind.pictures, config.vision.image_size)
    model = abstract(kind, config, dtype)
    import_params(kind.table, Weights(directory), flat_params(model), source=directory)
    return model


def save(kind: EncoderKind, model: ImageTextEncoder, directory: str | Path) -> None:
    """Writes config.json and model.safetensors."""
    arrays = {path: param[...] for path, param in flat_params(model).items()}
    write_directory(directory, kind.to_config(model.config), export_params(kind.table, arrays))


# ------------------------------------------------------------------------------------------------- shared rows
def linear_rows(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSED), Row(f"{theirs}.bias", f"{ours}/bias")]


def norm_rows(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]


def mlp_rows(theirs: str, ours: str) -> list[Row]:
    return [row for name in ("fc1", "fc2") for row in linear_rows(f"{theirs}.{name}", f"{ours}/{name}")]


def tower_rows(theirs: str, ours: str) -> list[Row]:
    """The blocks of a tower."""
    theirs, ours = f"{theirs}.encoder.layers.{{layer}}", f"{ours}/layers"
    rows = []
    for name in ("layer_norm1", "layer_norm2"):
        rows += norm_rows(f"{theirs}.{name}", f"{ours}/{name}")
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
        rows += linear_rows(f"{theirs}.{name}", f"{ours}/{name.replace('.', '/')}")
    return rows + mlp_rows(f"{theirs}.mlp", f"{ours}/mlp")


# ------------------------------------------------------------------------------------------------- shared keys
# A tower's keys in config.json -> the fields of `TowerConfig`.
_TOWER = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "hidden_act": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
}


def read_tower(where: str, given: dict[str, Any] | None, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    """What is given of a tower.

    Raises:
      ValueError: keys that are not known, or of another kind than `kinds` says.
    """
    given = given or {}
    check_kinds(where, given, kinds)
    check_keys(where, given, {*kinds, *TOWER_HARMLESS})
    return given


def tower_fields(raw: dict[str, Any]) -> dict[str, Any]:
    """A tower's part of config.json, with defaults filled in -> the fields of `TowerConfig`."""
    return {field: raw[key] for key, field in _TOWER.items()}


def tower_keys(config: TowerConfig) -> dict[str, Any]:
    """The inverse."""
    return {key: getattr(config, field) for key, field in _TOWER.items()}
