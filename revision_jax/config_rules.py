"""What a config may hold: one rule for every field of every config, and the rules between fields.

A field without a rule raises, so that no knob can exist that nothing reads.
"""

import re
from typing import Any

from ml_collections import ConfigDict

from revision_jax.data.batches.negatives import find_strategy, strategy_names
from revision_jax.data.builders.datasets import DATA_SETS
from revision_jax.models.names import ATTENTION_BACKENDS, LAYOUTS, LORA_TARGETS, REMAT_POLICIES
from revision_jax.rules import (
    ConfigError,
    Rule,
    anything,
    at_least,
    between,
    broken_rules,
    fraction,
    one_of,
    positive,
    whole_numbers,
)
from revision_jax.search.rules import RULES as SEARCH_RULES
from revision_jax.search.rules import search_conflicts

_dtype = one_of("float32", "bfloat16")
_axis = (lambda v: v == -1 or v >= 1, "a number of devices, or -1 for the rest")


def _are_weighted(rows) -> bool:
    """(name, weight > 0) rows."""
    return all(
        isinstance(row, tuple) and len(row) == 2 and isinstance(row[0], str) and isinstance(row[1], float | int)
        and row[1] > 0
        for row in rows
    )  # fmt: skip


def _is_table(rows) -> bool:
    """An ordered trainable table: (regular expression, multiplier > 0 or 'frozen') rows."""
    try:
        return bool(rows) and all(re.compile(p) and (m == "frozen" or float(m) > 0) for p, m in rows)
    except (re.error, TypeError, ValueError):
        return False


# key -> (check, what is expected). Every field of every config has its row here.
RULES: dict[str, Rule] = {
    "seed": between(0, 2**31 - 1),
    "stage": anything,  # `runs.stage` knows the stages
    "init.dense": anything,
    "init.sparse": anything,
    "base.llm": anything,
    "base.clip": anything,
    "base.projector": anything,
    "model.dtype": _dtype,
    "model.param_dtype": one_of("float32", "bfloat16", "int8"),
    "model.remat": one_of(*REMAT_POLICIES),
    "model.attention": one_of(*ATTENTION_BACKENDS),
    "model.window_chunk": at_least(1),
    "model.layout": one_of(*LAYOUTS),
    "model.visual_norm": anything,
    "lora.rank": at_least(1),
    "lora.alpha": positive,
    "lora.dropout": fraction,
    "lora.targets": (lambda v: bool(v) and set(v) <= set(LORA_TARGETS), "some of " + ", ".join(LORA_TARGETS)),
    "sparse.mlp_width": at_least(1),
    "sparse.num_heads": at_least(1),
    "sparse.num_layers": at_least(1),
    "sparse.dropout": fraction,
    "hierarchy.window_s": positive,
    "hierarchy.num_frames": at_least(2),
    "hierarchy.stride": (lambda v: 0 < v <= 1, "a fraction of the window in (0, 1]"),
    "hierarchy.upper_stride": (lambda v: 0 < v <= 1, "a fraction of the window in (0, 1]"),
    "hierarchy.levels": (
        lambda v: whole_numbers(2)(v) and list(v) == sorted(set(v), reverse=True),
        "sizes of groups of at least 2 windows, coarse first",
    ),
    "prompt.system": anything,
    "prompt.max_text_tokens": at_least(8),
    "prompt.query_tokens": at_least(1),
    "data.name": one_of(*DATA_SETS),
    "data.dir": anything,
    "data.fps": positive,
    "data.video_s": positive,
    "data.domain": one_of("day", "night", "crowded", "noisy"),
    "data.train_videos": at_least(1),
    "data.val_videos": at_least(1),
    "data.test_videos": at_least(1),
    "data.neg_factor": at_least(0.0),
    "data.near_miss_fraction": between(0.0, 1.0),
    "data.negatives": (
        lambda v: bool(v) and _are_weighted(v) and {name for name, _ in v} <= set(strategy_names()),
        "(strategy, weight > 0) of " + ", ".join(strategy_names()),
    ),
    "data.mined": anything,
    "data.mixture": (lambda v: _are_weighted(v), "(directory, weight > 0) of each"),
    "data.faults": one_of("refuse", "drop"),
    "data.questions_per_window": at_least(1),
    "data.groups": one_of("windows", "videos"),
    "data.group_copies": (whole_numbers(1), "numbers of windows of at least 1"),
    "data.group_near_misses": between(0.0, 1.0),
    "data.read_threads": at_least(1),
    "data.prefetch": at_least(1),
    "train.batch_size": at_least(1),
    "train.accumulate": at_least(1),
    "train.steps": at_least(0),
    "train.epochs": at_least(0),
    "train.learning_rate": positive,
    "train.warmup_ratio": fraction,
    "train.weight_decay": at_least(0.0),
    "train.b1": fraction,
    "train.b2": fraction,
    "train.eps": positive,
    "train.clip_norm": positive,
    "train.skip_nonfinite": at_least(0),
    "train.log_every": at_least(1),
    "train.checkpoint_every": at_least(1),
    "train.keep_checkpoints": at_least(1),
    "train.eval_every": at_least(0),
    "train.keep_best": anything,
    "trainable": (_is_table, "rows of (path pattern, multiplier > 0 or 'frozen')"),
    "mesh.data": _axis,
    "mesh.fsdp": _axis,
    "mesh.tensor": _axis,
    **SEARCH_RULES,
    "eval.split": one_of("val", "test"),
    "eval.before": anything,
    "eval.after_training": anything,
    "eval.max_rows": at_least(1),
}


def validate(config: ConfigDict) -> None:
    """Raises `ConfigError` with every value that breaks its rule, or a rule between fields."""
    faults = broken_rules(flatten(config), RULES) or _conflicts(config)
    if faults:
        raise ConfigError("\n".join(faults))


def _conflicts(config: ConfigDict) -> list[str]:
    """Rules between fields."""
    train, faults = config.train, []
    if (train.steps > 0) == (train.epochs > 0):
        faults.append(
            f"train.steps is {train.steps} and train.epochs is {train.epochs}; expected one of them to be 0 "
            "(the other says how long to train)."
        )
    if train.batch_size % train.accumulate:
        faults.append(
            f"train.accumulate is {train.accumulate}; expected a divisor of train.batch_size ({train.batch_size})."
        )
    if train.checkpoint_every % train.log_every:
        faults.append(
            f"train.checkpoint_every is {train.checkpoint_every}; expected a multiple of train.log_every "
            f"({train.log_every}), so that only checked steps are saved."
        )
    if train.eval_every % train.log_every:
        faults.append(
            f"train.eval_every is {train.eval_every}; expected a multiple of train.log_every ({train.log_every})."
        )
    if train.keep_best and (not train.eval_every or train.eval_every % train.checkpoint_every):
        faults.append(
            f"train.keep_best is true and train.eval_every {train.eval_every}; expected a multiple of "
            f"train.checkpoint_every ({train.checkpoint_every}): the best checkpoint is one that was validated."
        )
    faults += _data_conflicts(config) + search_conflicts(config.search)
    if len(config.search.keep) != len(config.hierarchy.levels):
        faults.append(
            f"search.keep is {config.search.keep}, hierarchy.levels {config.hierarchy.levels}; expected a share for "
            "each level."
        )
    if config.search.depth > 1 + len(config.hierarchy.levels):
        faults.append(
            f"search.depth is {config.search.depth}; hierarchy.levels {config.hierarchy.levels} allow at most "
            f"{1 + len(config.hierarchy.levels)}."
        )
    if sum(size == -1 for size in config.mesh.values()) > 1:
        faults.append(f"mesh is {config.mesh.to_dict()}; expected at most one axis of -1 (the rest).")
    return faults


def _data_conflicts(config: ConfigDict) -> list[str]:
    """Rules between fields of the data."""
    data, faults = config.data, []
    strategies = [find_strategy(name) for name, _ in data.negatives]
    if any(strategy.needs_answers for strategy in strategies) != bool(data.mined):
        reading = [name for name in strategy_names() if find_strategy(name).needs_answers]
        faults.append(
            f"data.negatives is {data.negatives}, data.mined {data.mined!r}; expected predictions of an earlier run in "
            f"data.mined if, and only if, there is a strategy that reads them ({', '.join(reading)})."
        )
    if max(data.group_copies) >= min(config.hierarchy.levels):
        faults.append(
            f"data.group_copies is {data.group_copies}; expected less than the smallest group of hierarchy.levels, "
            f"{min(config.hierarchy.levels)}."
        )
    return faults


# Fields that came after runs had been saved, with the value that changes nothing: a run without the field has it.
ADDED: dict[str, Any] = {
    "train.skip_nonfinite": 0,
    "model.layout": "visual_width",
    "model.visual_norm": False,
}


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf field."""
    leaves = {}
    for key, value in config.items():
        nested = isinstance(value, ConfigDict | dict)
        leaves |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return leaves
