"""Stage 1, dense: LoRA learns to answer `From s to e.` or `Not Present` for one window of a long video.

    python -m revision_jax.train --config configs/stage1.py                 # tiny: Shapes, no download
    python -m revision_jax.train --config configs/stage1.py --config.train.steps=50
    python -m revision_jax.train --config configs/stage1.py:mad --config.data.dir=DIR \\
        --config.base.llm=DIR --config.base.encoder=DIR --config.base.projector=mm_projector.bin

| preset      | data                 | model                      | hardware  | time     | expect           |
|-------------|----------------------|----------------------------|-----------|----------|------------------|
| tiny        | Shapes, made here    | shipped, 1 M parameters    | 2 cores   | minutes  | docs/benchmarks  |
| mad         | MAD, 5 fps           | CLIP L/14, Vicuna-7B v1.5  | 8 x 80 GB | 5 epochs | paper: R1@.1 8.4 |
| vidchapters | VidChapters-7M, 2 fps| the same                   | 8 x 80 GB | 1 epoch  | not published    |
| msrvtt      | MSRVTT               | the same                   | 8 x 80 GB | 5 epochs | not published    |
| charades    | Charades-STA, 3 fps  | the same                   | 8 x 80 GB | 5 epochs | not published    |
| activitynet | ActivityNet Captions | the same, 1 fps            | 8 x 80 GB | 5 epochs | not published    |
| tacos       | TACoS, 2 fps         | the same                   | 8 x 80 GB | 5 epochs | not published    |
| qvhighlights| QVHighlights, 0.5 fps| the same                   | 8 x 80 GB | 5 epochs | not published    |
| extremewhen | ExtremeWhenBench     | the same, 2 fps            | 8 x 80 GB | 5 epochs | not published    |
| folder      | your own, prepared   | shipped, or your own       | yours     |          | docs/recipes.md  |

The 7B presets carry the paper's recipe (arXiv 2411.14901); their files are yours to give, and a run that
misses one says how it is made. The LoRA starts fresh; to continue VTimeLLM's stage 2 as the paper does on MAD,
give its directory: `--config.init.dense=DIR` (docs/recipes.md).
`folder` is sized by the train split in data.dir (`runs/sizing.py`) when `train` starts: it prints what it chose, and
every field can be set.
"""

from ml_collections import ConfigDict

from revision_jax.models.names import LORA_TARGETS


def defaults() -> ConfigDict:
    """Every field there is, with the values of `tiny`; a preset changes some."""
    return ConfigDict(
        dict(
            seed=0,  # data order, the start of what is drawn (LoRA, adapters), dropout
            stage="dense",  # align | dense | sparse | long | unified; each has its file in configs/
            track="tensorboard",  # where metrics go beside metrics.jsonl: tensorboard | wandb (both; an extra)
            init=dict(  # what this stage goes on from: a run's work folder, or a published stage's directory; "" = none
                dense="",  # its LoRA; for stage dense itself a LoRA to continue, such as VTimeLLM's
                sparse="",  # its sparse adapter
            ),
            base=dict(  # pretrained, frozen here; `asset:` = shipped with the package
                llm="asset:tiny/llm",  # Hugging Face directory of an LLM with its tokenizer (docs/recipes.md)
                encoder="asset:tiny/clip",  # Hugging Face directory of a CLIP or SigLIP with its tokenizer
                projector="asset:tiny/projector.safetensors",  # dense adapter: `weight [H, D]` and `bias [H]`
            ),
            model=dict(
                dtype="float32",  # activations: float32 | bfloat16
                param_dtype="float32",  # frozen weights, or int8; LoRA and adapter are always float32
                remat="none",  # recomputed in the backward pass, from none to all: none | mlp | names | full
                attention="auto",  # auto (by platform) | xla | cudnn | splash
                unroll=5,  # blocks of the LLM in a turn of its loop when it trains: more are faster on a CPU
                window_chunk=64,  # windows whose sparse tokens are computed together
                layout="visual_width",  # adapters of variant U: visual_width | llm_width | clip_adapter
                visual_norm=False,  # variant U: a LayerNorm over the tokens of frames and windows, before the LLM
            ),
            lora=dict(rank=16, alpha=32.0, dropout=0.0, targets=LORA_TARGETS),  # scale = alpha / rank
            sparse=dict(  # the sparse adapter
                mlp_width=256,
                num_heads=4,
                num_layers=2,
                dropout=0.0,
                precision="high",  # of its products: default | high | highest (docs/scale.md)
            ),
            hierarchy=dict(
                window_s=64.0,  # seconds of a window
                num_frames=64,  # frames of a window that the model sees
                stride=0.5,  # step between searched windows, as a fraction of a window
                upper_stride=0.5,  # the same for the upper levels
                levels=(48, 16),  # windows of a group at each upper level, coarse first
            ),
            prompt=dict(
                system="",  # text before `USER:`; may be empty
                max_text_tokens=28,  # question and answer together, padded to this
                query_tokens=16,  # CLIP's token features of a sentence that the sparse adapter sees
            ),
            data=dict(
                name="shapes",  # of data/builders/datasets.py: shapes | mad | vidchapters | ... | folder
                dir="",  # prepared data; empty = the cache (`config.resolve_data_dir`)
                fps=1.0,  # stored frames a second
                domain="day",  # shapes: day | night | crowded | noisy
                video_s=3600.0,  # shapes: seconds of a video
                train_videos=8,  # shapes: videos of each split
                val_videos=1,
                test_videos=3,
                neg_factor=1.0,  # contrastive windows a positive one
                near_miss_fraction=0.7,  # of the contrastive windows, show a near miss where there is one
                negatives=(("random", 1.0),),  # (strategy, weight): random | hard | semi_hard | cross_video | mined
                mined="",  # predictions of an earlier run on these queries, for `mined`
                mixture=(),  # (directory, weight) of more train splits; data.dir's own has weight 1
                faults="refuse",  # gaps that `prepare check` finds: refuse | drop what they name
                questions_per_window=4,  # texts that share a window's video tokens; the paper's is 1
                occurrences="apart",  # others in an event's window: apart (never) | shared (where there must be)
                groups="windows",  # what stands in a group: windows of one video | videos (short ones, each one window)
                group_copies=(2, 3),  # adjacent windows of a group that show the event
                group_near_misses=0.1,  # of a group's other windows, show a near miss where there is one
                read_threads=1,  # that load batches: more only help where disks are slow (docs/benchmarks.md)
                prefetch=8,  # batches read ahead
            ),
            train=dict(
                batch_size=16,  # windows a step, over all devices
                group_batch_size=0,  # variant U: groups a step, whose batches alternate with windows'; 0 = batch_size
                accumulate=1,  # parts of a batch that go through the model one after the other, to save memory
                steps=400,  # optimizer steps; 0 = count `epochs`
                epochs=0,  # passes over the data; 0 = count `steps`
                learning_rate=1e-3,  # peak; cosine decay to 0
                warmup_ratio=0.1,  # of the steps, linear from 0
                weight_decay=0.0,
                b1=0.9,
                b2=0.95,
                eps=1e-8,
                clip_norm=1.0,  # global gradient norm
                skip_nonfinite=0,  # steps with a loss or gradient that is not finite that may be left out; 0 = stop
                log_every=10,  # steps between syncs with the device; losses of all steps are logged
                checkpoint_every=100,  # steps, a multiple of `log_every`
                keep_checkpoints=2,
                eval_every=0,  # steps between validations on rows of `val`, a multiple of `log_every`; 0 = none
                keep_best=False,  # the run's weights are those of the lowest validation loss, not the last ones
            ),
            trainable=(  # (path pattern, learning-rate multiplier or "frozen"); first match
                (r"llm/.*/lora_[ab]", 1.0),
                (r"llm/.*", "frozen"),
                (r"adapter/.*", "frozen"),
            ),
            mesh=dict(data=-1, fsdp=1, tensor=1),  # devices an axis; -1 = the rest
            search=dict(
                depth=1,  # levels of a search: 0 one pass, 1 dense windows; from 2 on upper levels before them
                policy="top_down",  # what chooses windows: a file of revision_jax/search/policies
                keep=(0.9, 0.59),  # share, or above 1 number, of the windows a level sends down, coarse first
                least=1,  # windows that a level is shown and dense windows that are asked, at least; short videos: all
                shortlist=0.3,  # cascade: share, or number, of the windows that the first upper level is shown
                readings=2,  # groups of an upper level that show a window, in different company
                rescale=0.5,  # power of the upper levels' likelihood in the confidence; top_down ranks without it
                similarity=5.0,  # how much CLIP's cosine of an answer's frames counts in its confidence; 0 = not
                alone=0.5,  # left of it where an overlapping window sees the moment and does not give it; 1 = all
                verify=0.125,  # share of the chosen dense windows that is asked last, about sure answers; 0 = none
                confidence="inverse_mean_entropy",  # or inverse_max_entropy | sequence_likelihood
                beam=1,  # answers kept of a pair of query and window; 1 = greedy
                sampling=0.0,  # temperature at which answers are sampled; 0 = greedy
                drop_last_frame=False,  # answers that name the last frame alone do not count
                windows="whole",  # dense windows: whole | released, one fewer (the released program's)
                ranking="confidence",  # of the moments: confidence | cosine (the released program's)
                top_k=50,  # moments kept a query
                nms_iou=0.5,  # a moment that overlaps a better one more than this is dropped
                query_batch=1,  # queries asked together of a block of windows
                window_block=128,  # windows whose key/value caches are held together
                decode_block=16,  # pairs of query and window decoded together
                question_tokens=0,  # length questions are padded to; 0 = the longest of a video's
            ),
            eval=dict(
                split="test",  # val | test
                before=True,  # also the parts as they were before training
                after_training=True,  # the last thing that `train` does; else `evaluate` does it
                max_rows=2000,  # held-out rows whose questions are asked, or that a validation sees, drawn by seed
            ),
        )
    )


# The paper's recipe, shared by the 7B presets. It leaves `base` empty: those files are the user's.
PAPER = {
    "base.llm": "",
    "base.encoder": "",
    "base.projector": "",
    "model.dtype": "bfloat16",
    "model.param_dtype": "bfloat16",
    "model.remat": "names",
    "model.unroll": 1,
    "sparse.mlp_width": 2048,
    "sparse.num_heads": 8,
    "sparse.dropout": 0.1,
    "hierarchy.upper_stride": 0.2,
    "hierarchy.levels": (100, 33),
    "lora.rank": 64,
    "lora.alpha": 128.0,
    "lora.dropout": 0.05,
    "prompt.system": "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "prompt.max_text_tokens": 96,
    "prompt.query_tokens": 75,
    "data.near_miss_fraction": 0.0,
    "data.group_near_misses": 0.0,
    "data.questions_per_window": 1,
    "data.read_threads": 8,
    "train.batch_size": 128,
    "train.steps": 0,
    "train.epochs": 5,
    "train.learning_rate": 1e-4,
    "train.warmup_ratio": 0.03,
    "train.b2": 0.999,
    "train.checkpoint_every": 500,
    "search.readings": 1,
    "search.similarity": 0.0,
    "search.alone": 1.0,
    "search.verify": 0.0,
    "search.query_batch": 16,
    "search.window_block": 64,
    "search.decode_block": 64,
    "eval.before": False,
}

# One window a video: contrastive windows are other videos, and several moments come from several answers.
WHOLE = {"data.negatives": (("cross_video", 1.0),), "search.beam": 10, "search.confidence": "sequence_likelihood"}
LONG = {"data.fps": 2.0, "hierarchy.window_s": 125.0, "hierarchy.num_frames": 250}

PRESETS = {
    "tiny": {},
    # Sizes come from the data (runs/sizing.py). A sentence of anybody may be as long as CLIP reads.
    "folder": {"data.name": "folder", "prompt.query_tokens": 75},
    "mad": PAPER
    | {
        "data.name": "mad",
        "data.fps": 5.0,
        "hierarchy.window_s": 125.0,
        "hierarchy.num_frames": 250,
    },
    "vidchapters": PAPER
    | {
        "data.name": "vidchapters",
        "data.fps": 2.0,
        "train.epochs": 1,
        "hierarchy.window_s": 500.0,
        "hierarchy.num_frames": 250,
    },
    # A video is one window, over which its frames are spread; 32 s hold the longest. Its event fills it, so that
    # contrastive windows are other videos. There is no val in 9k / 1k-A, and none is needed.
    "msrvtt": PAPER
    | {
        "data.name": "msrvtt",
        "data.fps": 5.0,
        "data.groups": "videos",
        "data.negatives": (("cross_video", 1.0),),
        "hierarchy.window_s": 32.0,
        "hierarchy.num_frames": 100,
    },
    # Benchmarks of minutes: a window holds most videos whole.
    "charades": PAPER
    | WHOLE
    | {"data.name": "charades", "data.fps": 3.0, "hierarchy.window_s": 32.0, "hierarchy.num_frames": 96},
    "activitynet": PAPER
    | WHOLE
    | {"data.name": "activitynet", "data.fps": 1.0, "hierarchy.window_s": 240.0, "hierarchy.num_frames": 240},
    # A frame for each of its clips of 2 seconds; the windows of a query stand in one of ours.
    "qvhighlights": PAPER
    | WHOLE
    | {"data.name": "qvhighlights", "data.fps": 0.5, "hierarchy.window_s": 150.0, "hierarchy.num_frames": 75}
    | {"data.occurrences": "shared"},
    # Longer ones. ExtremeWhenBench is a test split alone: train and val, of another data set, stand beside it.
    "tacos": PAPER | LONG | {"data.name": "tacos"},
    "extremewhen": PAPER | LONG | {"data.name": "extremewhen"},
}


def get_config(preset: str = "tiny") -> ConfigDict:
    config = defaults()
    config.update_from_flattened_dict(PRESETS[preset])
    return config
