"""Weights of the real shapes, drawn at random, written by transformers: CLIP ViT-L/14 whole, two layers of Vicuna."""

from pathlib import Path

import torch
import transformers

LLM = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 2}
LLM |= {"num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


def write_llm(folder: Path) -> None:
    """A `LlamaForCausalLM` directory in bfloat16: 0.67 G parameters."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**LLM, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    _write(transformers.LlamaForCausalLM, config, folder)


def write_clip(folder: Path) -> None:
    """A `CLIPModel` directory in bfloat16: 0.43 G parameters."""
    torch.manual_seed(1)
    vision = VISION | {"image_size": 224, "patch_size": 14, "projection_dim": 768}
    # eos_token_id: 2 stands in OpenAI's config.json, too; transformers then takes the largest id.
    text = TEXT | {"vocab_size": 49408, "projection_dim": 768, "bos_token_id": 0, "eos_token_id": 2}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)
    _write(transformers.CLIPModel, config, folder)
    transformers.CLIPImageProcessorPil().save_pretrained(folder)


def write_projector(path: Path) -> None:
    """VTimeLLM's `mm_projector.bin`."""
    torch.manual_seed(2)
    layer = torch.nn.Linear(768, LLM["hidden_size"])
    tensors = {f"model.mm_projector.{name}": value.half() for name, value in layer.state_dict().items()}
    torch.save(tensors, path)


def _write(kind: type, config: transformers.PretrainedConfig, folder: Path) -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = kind(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder, max_shard_size="1GB")
