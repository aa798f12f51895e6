"""CLIP directories in the Hugging Face format (`CLIPModel`), both ways."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from revision_jax.interop.encoder import (
    EncoderKind,
    TextRules,
    load,
    norm_rows,
    read_tower,
    save,
    tower_fields,
    tower_keys,
    tower_rows,
)
from revision_jax.interop.files import read_config
from revision_jax.interop.model_keys import CLIP_HARMLESS, CLIP_KINDS, TEXT_KINDS, VISION_KINDS
from revision_jax.interop.pictures import PictureRules
from revision_jax.interop.table import CONVOLUTION, TRANSPOSED, Row, Table
from revision_jax.known_keys import check_keys, check_kinds, fits
from revision_jax.models.clip import CLIP, CLIPConfig, CLIPTextConfig, CLIPVisionConfig

# OpenAI's constants, which every CLIP directory without a preprocessor_config.json uses.
PICTURES = PictureRules(
    crop=True,
    filters=(3,),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
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

CLIP_TABLE = Table(
    rows=(
        Row("vision_model.embeddings.class_embedding", "vision/class_embedding"),
        Row("vision_model.embeddings.patch_embedding.weight", "vision/patch_embedding", CONVOLUTION),
        Row("vision_model.embeddings.position_embedding.weight", "vision/position_embedding"),
        # The misspelling is the published key.
        *norm_rows("vision_model.pre_layrnorm", "vision/pre_layernorm"),
        *tower_rows("vision_model", "vision"),
        *norm_rows("vision_model.post_layernorm", "vision/post_layernorm"),
        Row("text_model.embeddings.token_embedding.weight", "text/token_embedding"),
        Row("text_model.embeddings.position_embedding.weight", "text/position_embedding"),
        *tower_rows("text_model", "text"),
        *norm_rows("text_model.final_layer_norm", "text/final_layer_norm"),
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
    vision, text = (
        defaults | read_tower(f"{path}: {name}_config", _first(raw, f"{name}_config_dict", f"{name}_config"), kinds)
        for name, defaults, kinds in towers
    )
    with fits(path):
        return CLIPConfig(
            vision=CLIPVisionConfig(
                **tower_fields(vision), image_size=vision["image_size"], patch_size=vision["patch_size"]
            ),
            text=CLIPTextConfig(
                **tower_fields(text),
                vocab_size=text["vocab_size"],
                max_position_embeddings=text["max_position_embeddings"],
                eos_token_id=text["eos_token_id"],
            ),
            projection_dim=raw.get("projection_dim", 512),
        )


def _first(raw: dict[str, Any], *keys: str) -> Any:
    """The first value that is there: transformers takes all of a tower from older files' `_config_dict`."""
    return next((raw[key] for key in keys if raw.get(key) is not None), None)


def clip_to_config(config: CLIPConfig) -> dict[str, Any]:
    """What config.json holds, the inverse of `read_clip_config`."""
    vision, text = config.vision, config.text
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "vision_config": {
            "model_type": "clip_vision_model",
            **tower_keys(vision),
            "projection_dim": config.projection_dim,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
        "text_config": {
            "model_type": "clip_text_model",
            **tower_keys(text),
            "projection_dim": config.projection_dim,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_position_embeddings,
            "eos_token_id": text.eos_token_id,
            # Not used by the model; left out, transformers would fill in ids of its own vocabulary.
            "bos_token_id": None,
            "pad_token_id": None,
        },
    }


KIND = EncoderKind(
    "clip", CLIP, CLIP_TABLE, PICTURES, TextRules(starts=1, full=False), read_clip_config, clip_to_config
)


def load_clip(directory: str | Path, dtype: jax.typing.DTypeLike = jnp.float32) -> CLIP:
    """A CLIP with a directory's weights; see `encoder.load`."""
    return load(KIND, directory, dtype)


def save_clip(model: CLIP, directory: str | Path) -> None:
    """Writes config.json and model.safetensors."""
    save(KIND, model, directory)
