"""CLIP directories in the Hugging Face format (`CLIPModel`), both ways."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from revision_jax.interop.clip_processor import check_processor
from revision_jax.interop.files import read_config, write_directory
from revision_jax.interop.model_keys import CLIP_HARMLESS, CLIP_KINDS, TEXT_KINDS, TOWER_HARMLESS, VISION_KINDS
from revision_jax.interop.table import (
    CONVOLUTION,
    TRANSPOSED,
    Place,
    Row,
    Table,
    export_params,
    flat_params,
    import_params,
)
from revision_jax.interop.weights import Weights
from revision_jax.known_keys import Kind, check_keys, check_kinds
from revision_jax.models.clip import CLIP, CLIPConfig, CLIPTextConfig, CLIPVisionConfig, TowerConfig

# Hugging Face's defaults for what a config.json may leave out are those of ViT-B/32.
_TOWER_DEFAULTS = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_VISION_DEFAULTS = _TOWER_DEFAULTS | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
_TEXT_DEFAULTS = _TOWER_DEFAULTS | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "eos_token_id": 49407,
}


def _linear(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.weight", f"{ours}/kernel", TRANSPOSED), Row(f"{theirs}.bias", f"{ours}/bias")]


def _norm(theirs: str, ours: str) -> list[Row]:
    return [Row(f"{theirs}.weight", f"{ours}/scale"), Row(f"{theirs}.bias", f"{ours}/bias")]


def _tower(theirs: str, ours: str) -> list[Row]:
    theirs, ours = f"{theirs}.encoder.layers.{{layer}}", f"{ours}/layers"
    rows = []
    for name in ("layer_norm1", "layer_norm2"):
        rows += _norm(f"{theirs}.{name}", f"{ours}/{name}")
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
        rows += _linear(f"{theirs}.{name}", f"{ours}/{name.replace('.', '/')}")
    for name in ("fc1", "fc2"):
        rows += _linear(f"{theirs}.mlp.{name}", f"{ours}/mlp/{name}")
    return rows


CLIP_TABLE = Table(
    rows=(
        Row("vision_model.embeddings.class_embedding", "vision/class_embedding"),
        Row("vision_model.embeddings.patch_embedding.weight", "vision/patch_embedding", CONVOLUTION),
        Row("vision_model.embeddings.position_embedding.weight", "vision/position_embedding"),
        # The misspelling is the published key.
        *_norm("vision_model.pre_layrnorm", "vision/pre_layernorm"),
        *_tower("vision_model", "vision"),
        *_norm("vision_model.post_layernorm", "vision/post_layernorm"),
        Row("text_model.embeddings.token_embedding.weight", "text/token_embedding"),
        Row("text_model.embeddings.position_embedding.weight", "text/position_embedding"),
        *_tower("text_model", "text"),
        *_norm("text_model.final_layer_norm", "text/final_layer_norm"),
        Row("visual_projection.weight", "visual_projection/kernel", TRANSPOSED),
        Row("text_projection.weight", "text_projection/kernel", TRANSPOSED),
        Row("logit_scale", "logit_scale"),
    ),
    ignored=(r".*\.embeddings\.position_ids",),
)


def read_clip_config(directory: str | Path) -> CLIPConfig:
    """The `CLIPConfig` of a directory's config.json."""
    raw, path = read_config(directory, "clip"), Path(directory) / "config.json"
    check_kinds(path, raw, CLIP_KINDS)
    check_keys(path, raw, {*CLIP_KINDS, *CLIP_HARMLESS})
    towers = (("vision", _VISION_DEFAULTS, VISION_KINDS), ("text", _TEXT_DEFAULTS, TEXT_KINDS))
    vision, text = (_read_tower(raw, path, *tower) for tower in towers)
    return CLIPConfig(
        vision=CLIPVisionConfig(
            **_tower_config(vision), image_size=vision["image_size"], patch_size=vision["patch_size"]
        ),
        text=CLIPTextConfig(
            **_tower_config(text),
            vocab_size=text["vocab_size"],
            max_position_embeddings=text["max_position_embeddings"],
            eos_token_id=text["eos_token_id"],
        ),
        projection_dim=raw.get("projection_dim", 512),
    )


def _read_tower(
    raw: dict[str, Any], path: Path, name: str, defaults: Mapping[str, Any], kinds: Mapping[str, Kind]
) -> dict[str, Any]:
    given = _first(raw, f"{name}_config_dict", f"{name}_config") or {}
    check_kinds(f"{path}: {name}_config", given, kinds)
    check_keys(f"{path}: {name}_config", given, {*kinds, *TOWER_HARMLESS})
    return defaults | given


def _first(raw: dict[str, Any], *keys: str) -> Any:
    """The first value that is there: transformers takes all of a tower from older files' `_config_dict`."""
    return next((raw[key] for key in keys if raw.get(key) is not None), None)


def _tower_config(raw: dict[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": raw["hidden_size"],
        "intermediate_size": raw["intermediate_size"],
        "num_layers": raw["num_hidden_layers"],
        "num_heads": raw["num_attention_heads"],
        "hidden_act": raw["hidden_act"],
        "layer_norm_eps": raw["layer_norm_eps"],
    }


def load_clip(
    directory: str | Path,
    *,
    dtype: Any = jnp.float32,
    param_dtype: Any = jnp.float32,
    attention: str = "auto",
    place: Place | None = None,
) -> CLIP:
    """A CLIP with a directory's weights. `place` puts each parameter where it belongs (`table.Place`).

    Raises ValueError where the files and the model disagree or pictures would be prepared otherwise, FileNotFoundError
    for missing files.
    """
    config = read_clip_config(directory)
    check_processor(directory, config.vision.image_size)
    model = nnx.eval_shape(
        lambda: CLIP(config, dtype=dtype, param_dtype=param_dtype, attention=attention, rngs=nnx.Rngs(0))
    )
    import_params(CLIP_TABLE, Weights(directory), flat_params(model), place, source=directory)
    return model


def save_clip(model: CLIP, directory: str | Path) -> None:
    """Writes config.json and model.safetensors."""
    arrays = {path: param[...] for path, param in flat_params(model).items()}
    write_directory(directory, clip_to_config(model.config), export_params(CLIP_TABLE, arrays))


def clip_to_config(config: CLIPConfig) -> dict[str, Any]:
    """What config.json holds, the inverse of `read_clip_config`."""

    def tower(raw: TowerConfig) -> dict[str, Any]:
        return {
            "hidden_size": raw.hidden_size,
            "intermediate_size": raw.intermediate_size,
            "num_hidden_layers": raw.num_layers,
            "num_attention_heads": raw.num_heads,
            "hidden_act": raw.hidden_act,
            "layer_norm_eps": raw.layer_norm_eps,
            "projection_dim": config.projection_dim,
        }

    vision, text = config.vision, config.text
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "vision_config": {
            "model_type": "clip_vision_model",
            **tower(vision),
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
        "text_config": {
            "model_type": "clip_text_model",
            **tower(text),
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_position_embeddings,
            "eos_token_id": text.eos_token_id,
            # Not used by the model; left out, transformers would fill in ids of its own vocabulary.
            "bos_token_id": None,
            "pad_token_id": None,
        },
    }
