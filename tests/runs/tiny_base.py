"""Tiny random files where a config expects pretrained ones, and a config small enough for seconds."""

import json
from pathlib import Path

from flax import nnx

from revision_jax import config as configs
from revision_jax.interop.adapter import save_projector
from revision_jax.interop.clip import save_clip
from revision_jax.interop.llama import save_llama
from revision_jax.models.adapter import DenseAdapter
from revision_jax.models.clip import CLIP, CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from revision_jax.models.llama import Llama, LlamaConfig
from revision_jax.pretrain.tokenizer import make_tokenizer
from revision_jax.runs.stage import stage_of

PATHS = {"llm": "llm", "encoder": "clip", "projector": "projector.safetensors"}
SMALL = {
    "hierarchy.window_s": 16.0,
    "hierarchy.num_frames": 8,
    "prompt.max_text_tokens": 48,
    "lora.rank": 2,
    "lora.targets": ("q_proj",),
    "data.video_s": 130.0,
    "data.train_videos": 2,
    "data.val_videos": 1,
    "data.test_videos": 1,
    "train.batch_size": 4,
    "train.steps": 4,
    "train.log_every": 2,
    "train.checkpoint_every": 2,
    "search.window_block": 8,
    "search.decode_block": 8,
    "eval.before": False,
}


def make_base(folder: Path, *, width: int = 12, hidden: int = 16, seed: int = 0) -> Path:
    """`llm/` (2 layers), `clip/` (1 layer a tower) and `projector.safetensors`, random."""
    tokenizer = make_tokenizer()
    sizes = LlamaConfig(len(tokenizer), hidden, 24, 2, 2, 2, hidden // 2, max_position_embeddings=128)
    save_llama(Llama(sizes, rngs=nnx.Rngs(seed)), folder / "llm")
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_layers": 1, "num_heads": 2}
    # Token features, which the sparse adapter sees beside the video's, must be as wide as those.
    text = CLIPTextConfig(
        **tower | {"hidden_size": width},
        vocab_size=len(tokenizer),
        max_position_embeddings=40,
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = CLIPVisionConfig(**tower, image_size=32, patch_size=16)
    save_clip(CLIP(CLIPConfig(vision, text, projection_dim=width), rngs=nnx.Rngs(seed + 1)), folder / "clip")
    (folder / "clip/preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    )
    for part in ("llm", "clip"):
        tokenizer.save_pretrained(folder / part)
    save_projector(DenseAdapter(width, hidden, rngs=nnx.Rngs(seed + 2)), folder / "projector.safetensors")
    return folder


def to_torch(folder: Path) -> Path:
    """Rewrites a base as PyTorch files: `llm/` in two .bin shards, `clip/` in one, `mm_projector.bin`."""
    import torch
    from safetensors.torch import load_file

    for part, shards in (("llm", 2), ("clip", 1)):
        source = folder / part / "model.safetensors"
        tensors = load_file(source)
        names = [f"pytorch_model-{i:05d}-of-{shards:05d}.bin" for i in range(1, shards + 1)]
        names = names if shards > 1 else ["pytorch_model.bin"]
        weight_map = {key: names[i % shards] for i, key in enumerate(tensors)}
        for name in names:
            torch.save({key: tensors[key] for key in tensors if weight_map[key] == name}, folder / part / name)
        if shards > 1:
            (folder / part / "pytorch_model.bin.index.json").write_text(
                json.dumps({"metadata": {}, "weight_map": weight_map})
            )
        source.unlink()
    projector = folder / PATHS["projector"]
    torch.save({f"model.{key}": value for key, value in load_file(projector).items()}, folder / "mm_projector.bin")
    projector.unlink()
    return folder


def overrides_of(base: Path, data_dir: Path | None = None, **changes) -> dict:
    """SMALL with the base's paths; `train__steps=3` changes `train.steps`."""
    overrides = SMALL | {f"base.{role}": str(base / path) for role, path in PATHS.items()}
    if not (base / PATHS["projector"]).exists():
        overrides["base.projector"] = str(base / "mm_projector.bin")
    if data_dir is not None:
        overrides["data.dir"] = str(data_dir)
    return overrides | {key.replace("__", "."): value for key, value in changes.items()}


# For the stages after the first one: groups small enough for two minutes of video.
GROUPS = {
    "hierarchy.levels": (5, 4),
    "train.batch_size": 2,
    "train.epochs": 0,
    "prompt.query_tokens": 6,
    "sparse.mlp_width": 16,
    "sparse.num_heads": 2,
    "data.group_near_misses": 0.5,
    "mesh.data": 1,
}


def chain_config(spec: str, folder: Path, **changes):
    """A tiny config of any stage over `folder/base`, `folder/data` and the runs `folder/dense` and `folder/sparse`."""
    config = configs.load(spec)
    overrides = overrides_of(folder / "base", folder / "data") | GROUPS
    overrides |= {f"init.{before}": str(folder / before) for before in stage_of(config).needs}
    if "projector" in stage_of(config).draws:
        overrides["base.projector"] = ""
    return configs.load(spec, overrides | {key.replace("__", "."): value for key, value in changes.items()})


def config_of(base: Path, data_dir: Path | None = None, **changes):
    return configs.load("configs/stage1.py", overrides_of(base, data_dir, **changes))
