"""What a stage is: one frozen dataclass and the table of all stages. Only `runs/` compares stages.

A stage is a row: what it trains and from what, which batches it sees, which levels of a search its model can answer,
and how it is scored. The trainable table itself stands in the stage's config.
"""

import dataclasses

from ml_collections import ConfigDict

from revision_jax.config import ConfigError
from revision_jax.data.batches.negatives import find_strategy
from revision_jax.runs.batches import CAPTIONS, GROUPS, PRESENCE, WINDOWS, BatchKind, frames_see_query
from revision_jax.runs.splits import splits_of
from revision_jax.training.optimizer import trained_by

SPARSE = "sparse/global_rep_token"  # a parameter of the sparse adapter
CAPTIONED = ("shapes", "lcs")  # data sets whose frames have captions


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
      name: the value of the config's field `stage`.
      config: the file that trains it, as `--config` takes it.
      trains: what it trains, in words.
      batches: kinds of batches, which come in turn.
      adapters: adapters that its model's tokens come from, "dense" and "sparse"; an export puts the first one's at the
        published name `mm_projector`.
      evaluators: what scores it, keys of `evaluation.evaluate.EVALUATORS`, in order.
      answers: levels of a search that its model answers: none, "dense" (frames), "upper" (windows), or both.
      needs: fields of `init` that it must start from.
      may: fields of `init` that it may start from beside these.
      serves: the field of `init` that a later stage names it by; "" if none does.
      draws: fields of `base` that start at random where no file is given.
    """

    name: str
    config: str
    trains: str
    batches: tuple[BatchKind, ...]
    adapters: tuple[str, ...]
    evaluators: tuple[str, ...]
    answers: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    serves: str = ""
    draws: tuple[str, ...] = ()

    def video_tokens(self, config: ConfigDict) -> int:
        """Video tokens of the longest sequence: one a frame, or one a window."""
        return max(kind.video_tokens(config) for kind in self.batches)


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="align", config="configs/align.py", trains="the dense adapter", batches=(CAPTIONS,),
            adapters=("dense",), evaluators=("captions",), draws=("projector",),
        ),
        Stage(
            name="dense", config="configs/stage1.py", trains="the LoRA", batches=(WINDOWS,),
            adapters=("dense",), evaluators=("search",), answers=("dense",), may=("dense",), serves="dense",
        ),
        Stage(
            name="sparse", config="configs/stage1_sparse.py", trains="the sparse adapter", batches=(PRESENCE,),
            adapters=("sparse",), evaluators=("presence",), needs=("dense",), serves="sparse",
        ),
        Stage(
            name="long", config="configs/stage2.py", trains="a second LoRA, from the first", batches=(GROUPS,),
            adapters=("sparse",), evaluators=("groups", "search"), answers=("upper",), needs=("dense", "sparse"),
        ),
        Stage(
            name="unified", config="configs/stage2.py:unified", trains="one LoRA for all levels",
            batches=(WINDOWS, GROUPS), adapters=("dense", "sparse"), evaluators=("groups", "search"),
            answers=("dense", "upper"), needs=("dense", "sparse"), serves="dense",
        ),
    )
}  # fmt: skip

# What the layouts of variant U change in its row: at the LLM's width no stage before it trains the sparse adapter, and
# where frames have the sparse adapter there is no projector.
LAYOUTS = {
    "visual_width": {},
    "llm_width": {"needs": ("dense",), "may": ("sparse",)},
    "clip_adapter": {"adapters": ("sparse",), "draws": ("projector",)},
}


def stage_of(config: ConfigDict) -> Stage:
    """The row of a config's stage, as its layout changes it.

    Raises:
      ConfigError: there is no such stage.
    """
    if config.stage not in STAGES:
        raise ConfigError(f"stage is {config.stage!r}; expected one of {', '.join(STAGES)}.")
    stage = STAGES[config.stage]
    return dataclasses.replace(stage, **LAYOUTS[config.model.layout]) if has_layouts(stage) else stage


def has_layouts(stage: Stage) -> bool:
    """Whether one grounder answers about frames and windows, so that its adapters may be laid out in several ways."""
    return "dense" in stage.answers and "upper" in stage.answers


def levels_of(config: ConfigDict) -> tuple[str, ...]:
    """The levels that a stage's model has tokens for: "dense", "sparse" or both."""
    return ("dense", "sparse") if frames_see_query(config) else stage_of(config).adapters


def makers(init: str) -> tuple[Stage, ...]:
    """The stages that `init.<init>` may name, the usual one first."""
    return tuple(stage for stage in STAGES.values() if stage.serves == init)


def check_stage(config: ConfigDict) -> None:
    """Raises ConfigError with every value of a config that its stage cannot have."""
    stage, data, faults = stage_of(config), config.data, []
    for before, workdir in config.init.items():
        if workdir and before not in stage.needs + stage.may:
            expected = f"expected nothing: stage {stage.name!r} does not start from it"
            faults.append(f"init.{before} is {workdir!r}; {expected}.")
    if WINDOWS not in stage.batches and data.questions_per_window > 1:
        faults.append(
            f"data.questions_per_window is {data.questions_per_window}; expected 1: in stage {stage.name!r} a video "
            "belongs to one question."
        )
    if config.train.group_batch_size and not {WINDOWS, GROUPS} <= set(stage.batches):
        faults.append(
            f"train.group_batch_size is {config.train.group_batch_size}; expected 0: stage {stage.name!r} has "
            "batches of one kind, whose rows are train.batch_size."
        )
    faults += _layout_faults(config, stage)
    others = [name for name, _ in data.negatives if not find_strategy(name).for_groups]
    if GROUPS in stage.batches and others and data.groups == "windows":
        faults.append(f"data.negatives is {data.negatives}; expected no {', '.join(others)}: a group shows one video.")
    captions = CAPTIONS in stage.batches
    if (captions and data.name not in CAPTIONED) or (not captions and data.name == "lcs"):
        expected = f"one of {', '.join(CAPTIONED)}, which have captions" if captions else "videos with queries"
        faults.append(f"data.name is {data.name!r}; expected {expected}, in stage {stage.name!r}.")
    if config.train.eval_every and "val" not in splits_of(config):
        faults.append(f"train.eval_every is {config.train.eval_every}; expected 0: data.name {data.name!r} has no val.")
    if faults:
        raise ConfigError("\n".join(faults))


def _layout_faults(config: ConfigDict, stage: Stage) -> list[str]:
    """The values of `model` and `data` that a stage cannot have with its layout."""
    model, faults = config.model, []
    for field, value, usual in (
        ("layout", model.layout, "visual_width"), ("visual_norm", model.visual_norm, False),
    ):  # fmt: skip
        if value != usual and not has_layouts(stage):
            faults.append(f"model.{field} is {value!r}; expected {usual!r}: stage {stage.name!r} is not variant U.")
    if not has_layouts(stage):
        return faults
    if model.layout == "clip_adapter" and config.data.questions_per_window > 1:
        faults.append(
            f"data.questions_per_window is {config.data.questions_per_window}; expected 1: with model.layout "
            "clip_adapter the frames of a window have seen one question."
        )
    if model.layout == "clip_adapter" and config.base.projector:
        faults.append(
            f"base.projector is {config.base.projector!r}; expected '': with model.layout clip_adapter frames go "
            "through the sparse adapter, and nothing would read it."
        )
    if model.layout == "llm_width" and not config.init.sparse and not trained_by(config.trainable, [SPARSE]):
        faults.append(
            "init.sparse is ''; expected a directory of variant U with its sparse adapter: it starts fresh, and the "
            "trainable table freezes it."
        )
    return faults
