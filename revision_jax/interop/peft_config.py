"""What an adapter_config.json of PEFT means for a Llama: which layers are adapted, with which rank and scale.

A kind is read where ours has the same arithmetic, and refused by the name of its key elsewhere.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from revision_jax.known_keys import BOOLEAN, NAMES, SHARE, or_null, told, unknown_keys, wrong_kinds
from revision_jax.known_keys import Kind as Values
from revision_jax.models.lora import LoRAConfig
from revision_jax.models.names import ATTENTION_LINEARS, LORA_TARGETS, MLP_LINEARS
from revision_jax.text import read_object

CONFIG = "adapter_config.json"
# What would change the arithmetic, with the values that do not; the last one is what the message asks for.
_PLAIN = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    # Other ways to start (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change the base, too, whenever PEFT reads the adapter.
    "init_lora_weights": ("gaussian", "eva", "orthogonal", False, None, True),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "fan_in_fan_out": (None, False),
    "kasa_config": (None,),
    "layer_replication": (None,),
    "lora_bias": (None, False),
    "megatron_config": (None,),
    "modules_to_save": ([], None),
    "monteclora_config": (None,),
    "target_parameters": ([], None),
    "trainable_token_indices": ([], {}, None),
    "use_bdlora": (False, None),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "velora_config": (None,),
}
_READ = (
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
)
_HARMLESS = (
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("megatron_core", "qalora_group_size", "ensure_weight_tying", "runtime_config"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),  # used only while a LoRA is drawn
)


# What a LoRA of ours cannot hold, but a base into which the adapter is folded.
FOLDED = {
    "use_dora": BOOLEAN,
    "modules_to_save": Values(
        lambda value: isinstance(value, list) and {*value} <= {"lm_head", "embed_tokens"}, "lm_head, embed_tokens"
    ),
}
_HOW_TO_FOLD = " (folded into a base of its own: convert --format llama --source BASE --adapter DIR)"
_LISTED = or_null(NAMES)
_LAYERS = or_null(
    Values(
        lambda value: type(value) is int or (isinstance(value, list) and all(type(one) is int for one in value)),
        "a whole number, or a list of them",
    )
)
_KINDS = {
    "lora_dropout": or_null(SHARE),
    "use_rslora": or_null(BOOLEAN),
    "target_modules": _LISTED,
    "exclude_modules": _LISTED,
    "layers_to_transform": _LAYERS,
    "layers_pattern": _LISTED,
}


class Adapted(NamedTuple):
    """One adapted layer: `scale` is what its `A B` is multiplied with."""

    rank: int
    scale: float


class Kind(NamedTuple):
    """What a file says.

    Attributes:
      config: one rank (the largest) and one scale for all layers.
      layers: PEFT's name of a linear layer ("model.layers.0.self_attn.q_proj") -> how it is adapted.
      dora: whether each has a magnitude.
      saved: modules that the adapter replaces whole.
    """

    config: LoRAConfig
    layers: Mapping[str, Adapted]
    dora: bool = False
    saved: tuple[str, ...] = ()


def read_kind(directory: str | Path, num_layers: int, *, fold: bool = False) -> Kind:
    """The adapter_config.json of a LoRA for a Llama of `num_layers` blocks.

    Args:
      fold: whether it is to be folded into the base, which can hold DoRA and whole modules (`FOLDED`), too.

    Raises:
      FileNotFoundError: there is none.
      ValueError: what ours lacks or does not know, all listed.
    """
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {directory} is not a LoRA directory in the PEFT format")
    raw = read_object(path)
    faults = _unsupported(raw, fold)
    layers = {}
    try:
        if not faults or not wrong_kinds(raw, _KINDS):
            names = [name for layer in range(num_layers) for name in linear_names(layer)]
            faults += _unmatched(raw, names)
            adapted = [name for name in names if _is_target(raw, name)]
        if not faults:
            layers = {name: _adapted(raw, name) for name in adapted}
    except re.error as error:
        faults.append(f"a pattern is no regular expression: {error}")
    if not layers and not faults:
        faults.append(f"target_modules {raw.get('target_modules')!r} match no layer of this model")
    if faults:
        raise ValueError(f"{path}: this LoRA is not supported:\n  " + "\n  ".join(faults))
    plain = Adapted(raw["r"], _scale(raw, raw["lora_alpha"], raw["r"]))
    rank = max(layer.rank for layer in layers.values())
    # Not by way of the scale where nothing is folded in: the file's alpha stays to the bit.
    alpha = float(raw["lora_alpha"]) if rank == plain.rank and not raw.get("use_rslora") else plain.scale * rank
    targets = tuple(name for name in LORA_TARGETS if any(full.endswith(f".{name}") for full in layers))
    lora = LoRAConfig(rank, alpha, float(raw.get("lora_dropout") or 0.0), targets)
    return Kind(lora, layers, bool(raw.get("use_dora")), tuple(raw.get("modules_to_save") or ()))


def linear_names(layer: int) -> list[str]:
    """PEFT's names of the linear layers of block `layer`, the same in all families."""
    blocks = {"self_attn": ATTENTION_LINEARS, "mlp": MLP_LINEARS}
    return [f"model.layers.{layer}.{block}.{name}" for block, names in blocks.items() for name in names]


def _unsupported(raw: Mapping[str, Any], fold: bool) -> list[str]:
    faults = [
        f"{key} is {raw[key]!r}; expected {plain[-1]!r}" + (_HOW_TO_FOLD if _can_fold(raw, key) else "")
        for key, plain in _PLAIN.items()
        if key in raw and not any(raw[key] == value and type(raw[key]) is type(value) for value in plain)
        if not (fold and _can_fold(raw, key))
    ]
    if unknown := unknown_keys(raw, {*_PLAIN, *_READ, *_HARMLESS}):
        faults.append(told(unknown))
    faults += wrong_kinds(raw, _KINDS)
    if not _is_rank(raw.get("r")):
        faults.append(f"r is {raw.get('r')!r}; expected a whole number of at least 1")
    if not _is_alpha(raw.get("lora_alpha")):
        faults.append(f"lora_alpha is {raw.get('lora_alpha')!r}; expected a number above 0")
    for key, check in (("rank_pattern", _is_rank), ("alpha_pattern", _is_alpha)):
        pattern = raw.get(key) or {}
        if not isinstance(pattern, dict) or not all(map(check, pattern.values())):
            faults.append(f"{key} is {pattern!r}; expected patterns of names with a number above 0 for each")
    if isinstance(raw.get("target_modules"), str) and raw.get("layers_to_transform") not in (None, []):
        faults.append("layers_to_transform stands beside one pattern as target_modules; expected a list of names")
    return faults


def _can_fold(raw: Mapping[str, Any], key: str) -> bool:
    return key in FOLDED and FOLDED[key].check(raw[key])


def _is_rank(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_alpha(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _unmatched(raw: Mapping[str, Any], names: list[str]) -> list[str]:
    """A line where a listed target is no linear layer of a block, such as the head."""
    targets = raw.get("target_modules") or []
    if isinstance(targets, str):
        return []
    strangers = [target for target in sorted(map(str, targets)) if not any(_ends_with(name, target) for name in names)]
    if strangers or not targets:
        return [f"target_modules {strangers or targets} are none of {list(LORA_TARGETS)}"]
    return []


def _is_target(raw: Mapping[str, Any], name: str) -> bool:
    """Whether PEFT adapts a layer: by a pattern of the whole name, the whole name, or its last parts."""
    excluded, targets = raw.get("exclude_modules") or [], raw.get("target_modules") or []
    if isinstance(excluded, str):
        excluded = [name] if re.fullmatch(excluded, name) else []
    if any(_ends_with(name, part) for part in excluded):
        return False
    if isinstance(targets, str):
        return targets.lower() == "all-linear" or re.fullmatch(targets, name) is not None
    if name in targets:
        return True  # the whole name is meant, whatever layers_to_transform says
    return any(_ends_with(name, target) for target in targets) and _is_chosen_layer(raw, name)


def _is_chosen_layer(raw: Mapping[str, Any], name: str) -> bool:
    chosen = raw.get("layers_to_transform")
    if chosen is None or chosen == []:
        return True
    patterns = raw.get("layers_pattern") or r"[^.]*"
    patterns = [patterns] if isinstance(patterns, str) else patterns
    found = [match for pattern in patterns if (match := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name))]
    return bool(found) and int(found[0].groups()[-1]) in ([chosen] if isinstance(chosen, int) else chosen)


def _ends_with(name: str, part: str) -> bool:
    return name == part or name.endswith(f".{part}")


def _adapted(raw: Mapping[str, Any], name: str) -> Adapted:
    rank = _by_pattern(raw.get("rank_pattern"), name, raw["r"])
    return Adapted(rank, _scale(raw, _by_pattern(raw.get("alpha_pattern"), name, raw["lora_alpha"]), rank))


def _scale(raw: Mapping[str, Any], alpha: float, rank: int) -> float:
    return alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank)


def _by_pattern(patterns: Mapping[str, Any] | None, name: str, otherwise: Any) -> Any:
    """The value of the first pattern that a name, or its last parts, match."""
    found = (value for pattern, value in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", name))
    return next(found, otherwise)
