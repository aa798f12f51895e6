"""What a config may hold: one rule for every field of every config, and the rules between fields.

A field without a rule raises, so that no knob can exist that nothing reads.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from revision_jax.data.batches.negatives import find_strategy, strategy_names
from revision_jax.data.builders.datasets import DATA_SETS
from revision_jax.models.names import ATTENTION_BACKENDS, LORA_TARGETS, REMAT_POLICIES
from revision_jax.search.policies import policy_names  # the names of files; imports nothing


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key."""


def _at_least(low) -> tuple[Callable, str]:
    return lambda v: v >= low, f"at least {low}"


def _between(low, high) -> tuple[Callable, str]:
    return lambda v: low <= v <= high, f"between {low} and {high}"


def _one_of(*options) -> tuple[Callable, str]:
    return lambda v: v in options, "one of " + ", ".join(options)


_positive = (lambda v: v > 0, "greater than 0")
_anything = (lambda v: True, "anything")
_fraction = (lambda v: 0 <= v < 1, "a fraction in [0, 1)")
_dtype = _one_of("float32", "bfloat16")
_axis = (lambda v: v == -1 or v >= 1, "a number of devices, or -1 for the rest")
# Stage -> the stages before it whose trained part it goes on from, as fields of `init`.
STAGE_NEEDS = {
    "align": (),
    "dense": (),
    "sparse": ("dense",),
    "long": ("dense", "sparse"),
    "unified": ("dense", "sparse"),
}
# Stage -> the stages that it may go on from beside those: the dense stage on MAD continues VTimeLLM's LoRA.
STAGE_MAY = {"align": (), "dense": ("dense",), "sparse": (), "long": (), "unified": ()}
CONFIDENCES = ("inverse_mean_entropy", "inverse_max_entropy", "sequence_likelihood")


def _whole_numbers(low: int) -> Callable[[Any], bool]:
    return lambda v: bool(v) and all(type(n) is int and n >= low for n in v)


def _are_shares(values) -> bool:
    """Shares up to 1, or whole numbers above it."""
    sound = lambda v: isinstance(v, float | int) and (0 < v <= 1 or v == int(v) > 1)
    return bool(values) and all(map(sound, values))


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
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": _between(0, 2**31 - 1),
    "stage": _one_of(*STAGE_NEEDS),
    "init.dense": _anything,
    "init.sparse": _anything,
    "base.llm": _anything,
    "base.clip": _anything,
    "base.projector": _anything,
    "model.dtype": _dtype,
    "model.param_dtype": _one_of("float32", "bfloat16", "int8"),
    "model.remat": _one_of(*REMAT_POLICIES),
    "model.attention": _one_of(*ATTENTION_BACKENDS),
    "model.window_chunk": _at_least(1),
    "lora.rank": _at_least(1),
    "lora.alpha": _positive,
    "lora.dropout": _fraction,
    "lora.targets": (lambda v: bool(v) and set(v) <= set(LORA_TARGETS), "some of " + ", ".join(LORA_TARGETS)),
    "sparse.mlp_width": _at_least(1),
    "sparse.num_heads": _at_least(1),
    "sparse.num_layers": _at_least(1),
    "sparse.dropout": _fraction,
    "hierarchy.window_s": _positive,
    "hierarchy.num_frames": _at_least(2),
    "hierarchy.stride": (lambda v: 0 < v <= 1, "a fraction of the window in (0, 1]"),
    "hierarchy.upper_stride": (lambda v: 0 < v <= 1, "a fraction of the window in (0, 1]"),
    "hierarchy.levels": (
        lambda v: _whole_numbers(2)(v) and list(v) == sorted(set(v), reverse=True),
        "sizes of groups of at least 2 windows, coarse first",
    ),
    "prompt.system": _anything,
    "prompt.max_text_tokens": _at_least(8),
    "prompt.query_tokens": _at_least(1),
    "data.name": _one_of(*DATA_SETS),
    "data.dir": _anything,
    "data.fps": _positive,
    "data.video_s": _positive,
    "data.domain": _one_of("day", "night", "crowded", "noisy"),
    "data.train_videos": _at_least(1),
    "data.val_videos": _at_least(1),
    "data.test_videos": _at_least(1),
    "data.neg_factor": _at_least(0.0),
    "data.near_miss_fraction": _between(0.0, 1.0),
    "data.negatives": (
        lambda v: bool(v) and _are_weighted(v) and {name for name, _ in v} <= set(strategy_names()),
        "(strategy, weight > 0) of " + ", ".join(strategy_names()),
    ),
    "data.mined": _anything,
    "data.mixture": (lambda v: _are_weighted(v), "(directory, weight > 0) of each"),
    "data.faults": _one_of("refuse", "drop"),
    "data.questions_per_window": _at_least(1),
    "data.groups": _one_of("windows", "videos"),
    "data.group_copies": (_whole_numbers(1), "numbers of windows of at least 1"),
    "data.group_near_misses": _between(0.0, 1.0),
    "data.read_threads": _at_least(1),
    "data.prefetch": _at_least(1),
    "train.batch_size": _at_least(1),
    "train.accumulate": _at_least(1),
    "train.steps": _at_least(0),
    "train.epochs": _at_least(0),
    "train.learning_rate": _positive,
    "train.warmup_ratio": _fraction,
    "train.weight_decay": _at_least(0.0),
    "train.b1": _fraction,
    "train.b2": _fraction,
    "train.eps": _positive,
    "train.clip_norm": _positive,
    "train.log_every": _at_least(1),
    "train.checkpoint_every": _at_least(1),
    "train.keep_checkpoints": _at_least(1),
    "trainable": (_is_table, "rows of (path pattern, multiplier > 0 or 'frozen')"),
    "mesh.data": _axis,
    "mesh.fsdp": _axis,
    "mesh.tensor": _axis,
    "search.depth": _at_least(0),
    "search.policy": _one_of(*policy_names()),
    "search.keep": (_are_shares, "shares of the windows, in (0, 1], or numbers of windows"),
    "search.readings": _at_least(1),
    "search.rescale": _at_least(0.0),
    "search.confidence": _one_of(*CONFIDENCES),
    "search.beam": _at_least(1),
    "search.sampling": _at_least(0.0),
    "search.drop_last_frame": _anything,
    "search.windows": _one_of("whole", "released"),
    "search.ranking": _one_of("confidence", "cosine"),
    "search.top_k": _at_least(1),
    "search.nms_iou": _between(0.0, 1.0),
    "search.query_batch": _at_least(1),
    "search.window_block": _at_least(1),
    "search.decode_block": _at_least(1),
    "search.question_tokens": _at_least(0),
    "eval.split": _one_of("val", "test"),
    "eval.before": _anything,
}


def validate(config: ConfigDict) -> None:
    """Raises `ConfigError` with every value that breaks its rule, or a rule between fields."""
    faults = _broken_rules(flatten(config), RULES) or _conflicts(config)
    if faults:
        raise ConfigError("\n".join(faults))


def check_fields(group: str, values: Mapping[str, Any]) -> None:
    """Checks the fields of one group, such as `search`, apart from the rest of a config.

    Args:
      values: field -> value, without the group's name.

    Raises:
      ConfigError: a field is unknown, missing, or breaks its rule or a rule between fields of the group.
    """
    rules = {key: rule for key, rule in RULES.items() if key.startswith(f"{group}.")}
    faults = _broken_rules({f"{group}.{name}": value for name, value in values.items()}, rules)
    if not faults and group == "search":
        faults = _search_conflicts(values)
    if faults:
        raise ConfigError("\n".join(faults))


def _broken_rules(values: Mapping[str, Any], rules: Mapping[str, tuple[Callable[[Any], bool], str]]) -> list[str]:
    """Unknown and missing keys; without any, the values that break their rules."""
    faults = [unknown_key(key, rules) for key in values if key not in rules]
    faults += [f"{key} is missing; expected {rules[key][1]}." for key in rules if key not in values]
    if not faults:
        for key, value in values.items():
            check, expected = rules[key]
            if (isinstance(value, float) and not math.isfinite(value)) or not check(value):
                faults.append(f"{key} is {value!r}; expected {expected}.")
    return faults


def _search_conflicts(search: Mapping[str, Any]) -> list[str]:
    """Rules between the fields of `search`."""
    if search["beam"] > 1 and search["sampling"]:
        return [f"search.beam is {search['beam']} and search.sampling {search['sampling']}; expected one of them."]
    return []


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
    faults += _stage_conflicts(config) + _search_conflicts(config.search)
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


def _stage_conflicts(config: ConfigDict) -> list[str]:
    """What a stage cannot have."""
    stage, data, faults = config.stage, config.data, []
    for before, workdir in config.init.items():
        if workdir and before not in STAGE_NEEDS[stage] + STAGE_MAY[stage]:
            faults.append(f"init.{before} is {workdir!r}; expected nothing: stage {stage!r} does not start from it.")
    if stage not in ("dense", "unified") and data.questions_per_window > 1:
        faults.append(
            f"data.questions_per_window is {data.questions_per_window}; expected 1: in stage {stage!r} a video belongs "
            "to one question."
        )
    strategies = [find_strategy(name) for name, _ in data.negatives]
    if any(strategy.needs_answers for strategy in strategies) != bool(data.mined):
        reading = [name for name in strategy_names() if find_strategy(name).needs_answers]
        faults.append(
            f"data.negatives is {data.negatives}, data.mined {data.mined!r}; expected predictions of an earlier run in "
            f"data.mined if, and only if, there is a strategy that reads them ({', '.join(reading)})."
        )
    others = [strategy.name for strategy in strategies if not strategy.for_groups]
    if stage in ("long", "unified") and others:
        faults.append(f"data.negatives is {data.negatives}; expected no {', '.join(others)}: a group shows one video.")
    if max(data.group_copies) >= min(config.hierarchy.levels):
        faults.append(
            f"data.group_copies is {data.group_copies}; expected less than the smallest group of hierarchy.levels, "
            f"{min(config.hierarchy.levels)}."
        )
    captioned = ("shapes", "lcs")
    if (stage == "align" and data.name not in captioned) or (stage != "align" and data.name == "lcs"):
        expected = f"one of {', '.join(captioned)}, which have captions" if stage == "align" else "videos with queries"
        faults.append(f"data.name is {data.name!r}; expected {expected}, in stage {stage!r}.")
    return faults


def unknown_key(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=3, cutoff=0.4)
    # `--config.batch_size` is close to `train.batch_size` in meaning, not in letters.
    near += [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2] and k not in near]
    return f"unknown config key {key!r}" + (f"; did you mean {', '.join(near)}?" if near else ".")


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every leaf field."""
    leaves = {}
    for key, value in config.items():
        nested = isinstance(value, ConfigDict | dict)
        leaves |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return leaves
