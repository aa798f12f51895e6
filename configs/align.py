"""Align: the dense projector learns to turn a frame into a token that the frozen LLM can describe.

    python -m revision_jax.train --config configs/align.py                  # tiny: rendered Shapes frames
    python -m revision_jax.train --config configs/align.py:paper --config.data.dir=DIR \\
        --config.base.llm=DIR --config.base.encoder=DIR

A frame is one image: `Describe this frame.` and its caption. Leaves RUN/projector.safetensors, which the other stages
take as `--config.base.projector`. The projector starts at random, or from `base.projector` where one is given.
`paper` reads LLaVA's LCS-558K: DIR holds `blip_laion_cc_sbu_558k.json` and `images/` (the unpacked images.zip), both of
liuhaotian/LLaVA-Pretrain; its images are encoded once, into DIR. One epoch, 8 x 80 GB.
Only what differs from configs/stage1.py stands here.
"""

from ml_collections import ConfigDict

from revision_jax.config import derive

STAGE = {
    "stage": "align",
    "base.projector": "",
    "lora.dropout": 0.0,  # LoRA is frozen here and does nothing: its B is 0
    "data.questions_per_window": 1,
    "train.learning_rate": 1e-3,
    "train.batch_size": 128,
    "trainable": ((r"adapter/.*", 1.0), (r"llm/.*", "frozen")),
}
PRESETS = {
    "tiny": {"train.steps": 150},
    "paper": {"data.name": "lcs", "data.fps": 1.0, "train.epochs": 1},
}


def defaults() -> ConfigDict:
    return get_config()


def get_config(preset: str = "tiny") -> ConfigDict:
    return derive(f"stage1.py:{preset if preset == 'tiny' else 'mad'}", STAGE | PRESETS[preset])
