"""SigLIP directories in the Hugging Face format (`SiglipModel`), both ways; SigLIP 2 at a fixed resolution is one."""

from pathlib import Path
from typing import Any

from revision_jax.interop.encoder import (
    EncoderKind,
    TextRules,
    linear_rows,
    mlp_rows,
    norm_rows,
    read_tower,
    tower_fields,
    tower_keys,
    tower_rows,
)
from revision_jax.interop.files import read_config
from revision_jax.interop.model_keys import CLIP_HARMLESS, SIGLIP_KINDS, SIGLIP_TEXT_KINDS, SIGLIP_VISION_KINDS
from revision_jax.interop.pictures import PictureRules
from revision_jax.interop.table import CONVOLUTION, TRANSPOSED, Row, Table, Transform
from revision_jax.known_keys import check_keys, check_kinds, fits
from revision_jax.models.siglip import SigLIP, SigLIPConfig
from revision_jax.models.towers import TextConfig, VisionConfig

# The published ones: bicubic for SigLIP, bilinear for SigLIP 2.
PICTURES = PictureRules(crop=False, filters=(3, 2), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# Hugging Face's defaults for what a config.json may leave out are those of base-patch16-224.
_TOWER_DEFAULTS = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_VISION_DEFAULTS = _TOWER_DEFAULTS | {"image_size": 224, "patch_size": 16}
_TEXT_DEFAULTS = _TOWER_DEFAULTS | {"vocab_size": 32000, "max_position_embeddings": 64, "projection_size": None}

PROBE = Transform(lambda x: x.reshape(-1), lambda x: x[None, None])  # [1, 1, W] <-> [W]
SIGLIP_TABLE = Table(
    rows=(
        Row("vision_model.embeddings.patch_embedding.weight", "vision/patch_embedding", CONVOLUTION),
        Row("vision_model.embeddings.patch_embedding.bias", "vision/patch_bias"),
        Row("vision_model.embeddings.position_embedding.weight", "vision/position_embedding"),
        *tower_rows("vision_model", "vision"),
        *norm_rows("vision_model.post_layernorm", "vision/post_layernorm"),
        Row("vision_model.head.probe", "vision/head/probe", PROBE),
        Row("vision_model.head.attention.in_proj_weight", "vision/head/in_proj/kernel", TRANSPOSED),
        Row("vision_model.head.attention.in_proj_bias", "vision/head/in_proj/bias"),
        *linear_rows("vision_model.head.attention.out_proj", "vision/head/out_proj"),
        *norm_rows("vision_model.head.layernorm", "vision/head/layernorm"),
        *mlp_rows("vision_model.head.mlp", "vision/head/mlp"),
        Row("text_model.embeddings.token_embedding.weight", "text/token_embedding"),
        Row("text_model.embeddings.position_embedding.weight", "text/position_embedding"),
        *tower_rows("text_model", "text"),
        *norm_rows("text_model.final_layer_norm", "text/final_layer_norm"),
        *linear_rows("text_model.head", "text/head"),
        Row("logit_scale", "logit_scale"),
        Row("logit_bias", "logit_bias"),
    ),
    ignored=(r".*\.embeddings\.position_ids",),
)


def read_siglip_config(directory: str | Path) -> SigLIPConfig:
    """The `SigLIPConfig` of a directory's config.json.

    Raises:
      ValueError: a tower that is not supported here, named.
    """
    raw, path = read_config(directory, "siglip"), Path(directory) / "config.json"
    check_kinds(path, raw, SIGLIP_KINDS)
    check_keys(path, raw, {*SIGLIP_KINDS, *CLIP_HARMLESS})
    vision = _VISION_DEFAULTS | read_tower(f"{path}: vision_config", raw.get("vision_config"), SIGLIP_VISION_KINDS)
    text = _TEXT_DEFAULTS | read_tower(f"{path}: text_config", raw.get("text_config"), SIGLIP_TEXT_KINDS)
    with fits(path):
        return SigLIPConfig(
            vision=VisionConfig(
                **tower_fields(vision), image_size=vision["image_size"], patch_size=vision["patch_size"]
            ),
            text=TextConfig(
                **tower_fields(text),
                vocab_size=text["vocab_size"],
                max_position_embeddings=text["max_position_embeddings"],
            ),
            projection_size=text["projection_size"] or text["hidden_size"],
        )


def siglip_to_config(config: SigLIPConfig) -> dict[str, Any]:
    """What config.json holds, the inverse of `read_siglip_config`."""
    vision, text = config.vision, config.text
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "vision_config": {
            "model_type": "siglip_vision_model",
            **tower_keys(vision),
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
        "text_config": {
            "model_type": "siglip_text_model",
            **tower_keys(text),
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_position_embeddings,
            "projection_size": config.projection_size,
            # Not used by the model; left out, transformers would fill in ids of CLIP's vocabulary.
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        },
    }


KIND = EncoderKind(
    "siglip", SigLIP, SIGLIP_TABLE, PICTURES, TextRules(starts=0, full=True), read_siglip_config, siglip_to_config
)
