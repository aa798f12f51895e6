"""OpenAI's CLIP files (`ViT-L-14.pt`, a TorchScript archive or a state dict), under Hugging Face's names.

Sizes are read from the tensors. OpenAI stacks attention's three projections, where ours are separate, and transposes
the projections into the common space; everything else differs in names only.
"""

import math
import re
from collections.abc import Mapping

import numpy as np

from revision_jax.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

_HEAD_WIDTH = 64  # of every published model; not in the file
_IGNORED = re.compile(r"input_resolution|context_length|vocab_size|.*attn_mask")
_BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
_IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def openai_to_hugging_face(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """OpenAI's names and layout -> those of `CLIPModel`; unknown names stay, for the table to refuse."""
    renamed = {}
    for key, value in tensors.items():
        if block := _BLOCK.fullmatch(key):
            renamed |= _block(block, value)
        elif key in _PROJECTIONS:
            renamed[_PROJECTIONS[key]] = value.T
        elif not _IGNORED.fullmatch(key):
            renamed[_NAMES.get(key, key)] = value
    return renamed


def _block(block: re.Match, value: np.ndarray) -> dict[str, np.ndarray]:
    visual, layer, name = block.groups()
    where = f"{'vision' if visual else 'text'}_model.encoder.layers.{layer}"
    if _IGNORED.fullmatch(name):
        return {}
    if name in ("attn.in_proj_weight", "attn.in_proj_bias"):
        kind = name.rpartition("_")[2]
        return {f"{where}.self_attn.{p}_proj.{kind}": part for p, part in zip("qkv", np.split(value, 3))}
    module, _, kind = name.rpartition(".")
    return {f"{where}.{_IN_BLOCK.get(module, module)}.{kind}": value}


def openai_clip_config(tensors: Mapping[str, np.ndarray], source: str) -> CLIPConfig:
    """The sizes of a CLIP, from OpenAI's tensors.

    Raises:
      ValueError: not a CLIP with a vision transformer.
    """
    needed = ("visual.conv1.weight", "visual.positional_embedding", "ln_final.weight", "text_projection")
    missing = [key for key in needed if key not in tensors]
    if missing or "visual.layer1.0.conv1.weight" in tensors:
        raise ValueError(f"{source}: not one of OpenAI's CLIPs with a vision transformer: {missing} are missing")
    width, _, patch, _ = tensors["visual.conv1.weight"].shape
    grid = math.isqrt(tensors["visual.positional_embedding"].shape[0] - 1)
    text_width, vocabulary = tensors["ln_final.weight"].shape[0], tensors["token_embedding.weight"].shape[0]
    return CLIPConfig(
        vision=CLIPVisionConfig(**_tower(tensors, "visual.", width), image_size=grid * patch, patch_size=patch),
        text=CLIPTextConfig(
            **_tower(tensors, "", text_width),
            vocab_size=vocabulary,
            max_position_embeddings=tensors["positional_embedding"].shape[0],
            eos_token_id=vocabulary - 1,  # the model takes the largest id of a text
        ),
        projection_dim=tensors["text_projection"].shape[1],
    )


def _tower(tensors: Mapping[str, np.ndarray], prefix: str, width: int) -> dict[str, int | str | float]:
    blocks = f"{prefix}transformer.resblocks."
    return {
        "hidden_size": width,
        "intermediate_size": tensors[f"{blocks}0.mlp.c_fc.weight"].shape[0],
        "num_layers": 1 + max(int(key.split(".")[blocks.count(".")]) for key in tensors if key.startswith(blocks)),
        "num_heads": max(width // _HEAD_WIDTH, 1),
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
