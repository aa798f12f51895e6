"""A tiny published model, all in PyTorch's files: base, stage directories, and the configs of the runs they become."""

import dataclasses
from pathlib import Path

import torch
from tiny_base import chain_config, make_base, to_torch
from tiny_torch import LINEARS, lora_of, sparse_tensors, tiny_llama

from revision_jax.pretrain.tokenizer import make_tokenizer

WIDTH, HIDDEN, MLP, RANK, ALPHA = 16, 16, 24, 3, 6
SPECS = {
    "dense": "configs/stage1.py",
    "sparse": "configs/stage1_sparse.py",
    "long": "configs/stage2.py",
    "unified": "configs/stage2.py:unified",
}


@dataclasses.dataclass(frozen=True)
class Published:
    """`folder` holds `base/`, a directory a stage in `stages/`, and the runs `dense/` and `sparse/` made of two."""

    folder: Path

    def stage(self, name: str) -> Path:
        return self.folder / "stages" / name

    def overrides(self, name: str, **changes) -> dict:
        """What the config of stage `name` changes."""
        from revision_jax import config as configs

        sizes = {"lora__rank": RANK, "lora__alpha": float(ALPHA), "lora__targets": tuple(LINEARS)}
        config = chain_config(SPECS[name], self.folder, **sizes | {"sparse__mlp_width": MLP} | changes)
        return dict(configs.flatten(config))

    def convert(self, name: str, out: Path | None = None, **changes) -> dict:
        """Makes the run of a stage."""
        from revision_jax.runs.converting import convert

        out = out or self.folder / name
        return convert("stage", self.stage(name), out, spec=SPECS[name], fields=self.overrides(name, **changes))


def publish(folder: Path) -> Published:
    """Writes the base and the stage directories, and makes the runs `dense/` and `sparse/`."""
    make_base(folder / "base", width=WIDTH, hidden=HIDDEN)
    sizes = {"vocab_size": len(make_tokenizer()), "hidden_size": HIDDEN, "num_attention_heads": 2}
    llama = lambda: tiny_llama(**sizes, num_hidden_layers=2, num_key_value_heads=1, intermediate_size=24)
    llama().save_pretrained(folder / "base/llm")
    to_torch(folder / "base")
    for name in SPECS:
        stage = folder / "stages" / name
        # The sparse stage's LoRA is the dense stage's, frozen.
        lora_of(llama(), RANK, ALPHA, seed=1 if name in ("dense", "sparse") else 5).save_pretrained(stage)
        trained, apart = {}, None
        sparse = {f"mm_projector.{key}": value for key, value in sparse_tensors(WIDTH, MLP, HIDDEN).items()}
        if name in ("dense", "unified"):
            apart = torch.load(folder / "base/mm_projector.bin")
        elif name == "sparse":
            trained = {f"base_model.model.model.{key}": value for key, value in sparse.items()}
        else:
            apart = {f"model.{key}": value for key, value in sparse.items()}
        torch.save(trained, stage / "non_lora_trainables.bin")
        if apart is not None:
            torch.save(apart, stage / "mm_projector.bin")
    published = Published(folder)
    for name in ("dense", "sparse"):
        published.convert(name)
    return published
