"""Stage 2, long: a second LoRA learns to answer `From a to b.` over the windows of a long video, one token each.

    python -m revision_jax.train --config configs/stage1.py                 # first, these two
    python -m revision_jax.train --config configs/stage1_sparse.py
    python -m revision_jax.train --config configs/stage2.py                 # tiny: Shapes, no download
    python -m revision_jax.train --config configs/stage2.py:unified         # variant U: one LoRA for all levels
    python -m revision_jax.train --config configs/stage2.py:unified_llm_width   # in a published layout
    python -m revision_jax.train --config configs/stage2.py:mad --config.init.dense=RUN --config.init.sparse=RUN \\
        --config.data.dir=DIR --config.base.llm=DIR --config.base.encoder=DIR --config.base.projector=mm_projector.bin

| preset       | trains                                  | batches                                      | train first |
|--------------|-----------------------------------------|----------------------------------------------|-------------|
| tiny         | a LoRA that starts from stage 1's        | groups of 48 and 16 windows in turn          | tiny, tiny  |
| unified      | one LoRA for all levels (variant U)      | dense windows and groups in turn             | tiny, tiny  |
| unified_LAYOUT | the same, and a norm                  | one question a window                        | tiny, tiny  |
| retrieval    | as tiny                                  | groups of short videos, `In video 4.`        | tiny, tiny  |
| folder       | as tiny                                  | sized by your own data (configs/stage1.py)   | folder      |
| mad, vidchapters, msrvtt, extremewhen | as tiny, at 7B | groups of 100 and 33 (msrvtt: of videos)    | the same    |

`--config.stage=unified` makes variant U of any preset. The presets `unified_LAYOUT`, `mad_LAYOUT` and
`vidchapters_LAYOUT` make it in a published layout of its adapters (`models/visual.py`: visual_width, llm_width or
clip_adapter) with the norm over visual tokens, which is trained; the sparse adapter of llm_width starts fresh and is
trained, too. Else the adapters are frozen, and the LoRA starts from stage 1's. A step sees 128 windows or 8 groups
with `mad_LAYOUT` and `vidchapters_LAYOUT`, elsewhere `train.batch_size` of either (`train.group_batch_size` is 0). Ends
with the accuracy on held-out groups and with the search of held-out videos at every depth, for which the dense run
(init.dense) must still be there; of `retrieval` and `msrvtt`, with the ranks of short videos. `tiny` takes minutes on 2
cores; the paper's recipe takes 8 x 80 GB (MAD: R1@.1 11.9 with one upper level, 15.0 with two).

Such a run searches recursively, at depth 3 unless told otherwise. `tiny` and `unified` ask 15 % of the dense windows,
but at least 16 (`search.least`), so that short videos are searched whole. Shares that are given hold for them, too:
--keep 1.0,0.6 asks 60 % of any video's windows; --depth 1 asks all.
    python -m revision_jax.ground VIDEO "a red circle moves" --workdir runs/stage2-tiny [--depth 2] [--policy bottom_up]
    python -m revision_jax.evaluate --workdir runs/stage2-tiny --split val
Only what differs from configs/stage1.py stands here.
"""

from ml_collections import ConfigDict

from revision_jax.config import derive

STAGE = {
    "stage": "long",
    "init.dense": "runs/stage1-tiny",
    "init.sparse": "runs/stage1_sparse-tiny",
    "sparse.dropout": 0.0,  # frozen here
    "data.questions_per_window": 1,
    "search.depth": 3,  # both upper levels, then the dense one
    "trainable": (
        (r"llm/.*/lora_[ab]", 1.0),
        (r"llm/.*", "frozen"),
        (r"adapter/.*", "frozen"),
        (r"sparse/.*", "frozen"),
    ),
}
FROZEN = STAGE["trainable"][1:]
# Layout -> what is trained, and frozen, beside the norm. P is not in the model where frames have the sparse adapter.
LAYOUTS = {
    "visual_width": {"trainable": FROZEN},
    "llm_width": {"init.sparse": "", "trainable": (*FROZEN[:2], (r"sparse/.*", 1.0))},
    "clip_adapter": {"base.projector": "", "trainable": (FROZEN[0], FROZEN[2])},
}
PAPER = {"train.batch_size": 8, "train.epochs": 2}
TINY = {"train.batch_size": 8, "train.steps": 1000, "train.learning_rate": 2e-3, "data.train_videos": 64}
# From the budget curve (docs/benchmarks.md, The recursion). The 7B presets search as published: top_down.
FUSED = {"search.policy": "fused", "search.least": 16}
BUDGET = FUSED | {"search.keep": (1.0, 0.15)}
PRESETS = {
    "tiny": TINY | BUDGET,
    "unified": TINY | BUDGET | {"stage": "unified", "train.steps": 800, "data.questions_per_window": 4},
    "retrieval": TINY
    | {"train.steps": 250, "data.groups": "videos", "data.video_s": 64.0}
    | {"data.train_videos": 200, "data.val_videos": 60, "data.test_videos": 200},
    "folder": TINY | FUSED | {"init.dense": "runs/stage1-folder", "init.sparse": "runs/stage1_sparse-folder"},
    "mad": PAPER | {"init.dense": "runs/stage1-mad", "init.sparse": "runs/stage1_sparse-mad"},
    "vidchapters": PAPER
    | {"init.dense": "runs/stage1-vidchapters", "init.sparse": "runs/stage1_sparse-vidchapters", "train.epochs": 1},
    "msrvtt": PAPER | {"init.dense": "runs/stage1-msrvtt", "init.sparse": "runs/stage1_sparse-msrvtt"},
    "extremewhen": PAPER | {"init.dense": "runs/stage1-extremewhen", "init.sparse": "runs/stage1_sparse-extremewhen"},
}


def published(layout: str) -> dict:
    """What variant U changes in a published layout."""
    changes = {"stage": "unified", "model.layout": layout, "model.visual_norm": True, "data.questions_per_window": 1}
    own = LAYOUTS[layout]
    return changes | own | {"trainable": (STAGE["trainable"][0], (r"norm/.*", 1.0), *own["trainable"])}


# Of the paper's recipe each kind of batch has its own stage's size.
SIZES = {"train.batch_size": 128, "train.group_batch_size": PAPER["train.batch_size"]}
PRESETS |= {
    f"{name}_{layout}": PRESETS[name] | published(layout) | (SIZES if name != "unified" else {})
    for name in ("unified", "mad", "vidchapters")
    for layout in LAYOUTS
}


def defaults() -> ConfigDict:
    return get_config()


def get_config(preset: str = "tiny") -> ConfigDict:
    data = preset.split("_")[0]
    base = data if data not in ("unified", "retrieval") else "tiny"
    return derive(f"stage1.py:{base}", STAGE | PRESETS[preset])
