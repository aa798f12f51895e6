"""What a config may hold: one rule for every field of every config, and the rules between fields.

A field without a rule raises, so that no knob can exist that nothing reads.
"""

import re
from typing import Any

from ml_collections import ConfigDict

from revision_jax.data.batches.negatives import find_strategy, strategy_names
from revision_jax.data.builders.datasets import DATA_SETS
from revision_jax.models.names import ATTENTION_BACKENDS, LAYOUTS, LORA_TARGETS, PRECISIONS, REMAT_POLICIES
from revision_jax.rules import (
    LOCAL,
    ConfigError,
    Rule,
    a_path,
    above_zero,
    anything,
    at_least,
    between,
    broken_rules,
    fraction,
    is_remote,
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


# key -> (check, what is expected). Upper limits of sizes are far above what has been built: more is a slip of the keys,
# and would grow until the system ends the process without a word. Every field of every config has its row here.
RULES: dict[str, Rule] = {
    "seed": between(0, 2**31 - 1),
    "stage": anything,  # `runs.stage` knows the stages
    "track": one_of("tensorboard", "wandb"),
    "init.dense": a_path,
    "init.sparse": a_path,
    "base.llm": a_path,
    "base.encoder": a_path,
    "base.projector": a_path,
    "model.dtype": _dtype,
    "model.param_dtype": one_of("float32", "bfloat16", "int8"),
    "model.remat": one_of(*REMAT_POLICIES),
    "model.attention": one_of(*ATTENTION_BACKENDS),
    "model.unroll": between(1, 1000),
    "model.window_chunk": between(1, 10**5),
    "model.layout": one_of(*LAYOUTS),
    "model.visual_norm": anything,
    "lora.rank": between(1, 4096),
    "lora.alpha": positive,
    "lora.dropout": fraction,
    "lora.targets": (lambda v: bool(v) and set(v) <= set(LORA_TARGETS), "some of " + ", ".join(LORA_TARGETS)),
    "sparse.mlp_width": between(1, 10**6),
    "sparse.num_heads": between(1, 1024),
    "sparse.num_layers": between(1, 1000),
    "sparse.dropout": fraction,
    "sparse.precision": one_of(*PRECISIONS),
    "hierarchy.window_s": above_zero(1e7),
    "hierarchy.num_frames": between(2, 10**5),
    "hierarchy.stride": (lambda v: 0 < v <= 1, "a fraction of the window in (0, 1]"),
    "hierarchy.upper_stride": (lambda v: 0 < v <= 1, "a fraction of the window in (0, 1]"),
    "hierarchy.levels": (
        lambda v: whole_numbers(2)(v) and list(v) == sorted(set(v), reverse=True),
        "sizes of groups of at least 2 windows, coarse first",
    ),
    "prompt.system": anything,
    "prompt.max_text_tokens": between(8, 10**6),
    "prompt.query_tokens": between(1, 10**5),
    "data.name": one_of(*DATA_SETS),
    "data.dir": a_path,
    "data.fps": above_zero(1e5),
    "data.video_s": above_zero(1e7),
    "data.domain": one_of("day", "night", "crowded", "noisy"),
    "data.train_videos": between(1, 10**7),
    "data.val_videos": between(1, 10**7),
    "data.test_videos": between(1, 10**7),
    "data.neg_factor": at_least(0.0),
    "data.near_miss_fraction": between(0.0, 1.0),
    "data.negatives": (
        lambda v: bool(v) and _are_weighted(v) and {name for name, _ in v} <= set(strategy_names()),
        "(strategy, weight > 0) of " + ", ".join(strategy_names()),
    ),
    "data.mined": a_path,
    "data.mixture": (
        lambda v: _are_weighted(v) and not any(is_remote(directory) for directory, _ in v),
        f"(directory, weight > 0) of each, a directory being {LOCAL}",
    ),
    "data.faults": one_of("refuse", "drop"),
    "data.questions_per_window": between(1, 10**4),
    "data.occurrences": one_of("apart", "shared"),
    "data.groups": one_of("windows", "videos"),
    "data.group_copies": (whole_numbers(1), "numbers of windows of at least 1"),
    "data.group_near_misses": between(0.0, 1.0),
    "data.read_threads": between(1, 1024),
    "data.prefetch": between(1, 10**5),
    "train.batch_size": between(1, 10**6),
    "train.group_batch_size": between(0, 10**6),
    "train.accumulate": between(1, 10**6),
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
    faults += [
        f"train.accumulate is {train.accumulate}; expected a divisor of train.{size} ({train[size]})."
        for size in ("batch_size", "group_batch_size")
        if train[size] % train.accumulate
    ]
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
    "search.shortlist": 0.3,
    "search.least": 1,
    "search.similarity": 0.0,
    "search.alone": 1.0,
    "search.verify": 0.0,
    "sparse.precision": "high",
    "data.occurrences": "apart",
    "model.layout": "visual_width",
    "model.visual_norm": False,
    "track": "tensorboard",
    "model.unroll": 1,
    "train.group_batch_size": 0,
}


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf field."""
    leaves = {}
    for key, value in config.items():
        nested = isinstance(value, ConfigDict | dict)
        leaves |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return leaves
