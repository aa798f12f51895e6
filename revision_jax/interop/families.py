"""Families of language models that one model class (`models/llama.py`) serves: what config.json says in each.

A family is one row of `FAMILIES`: the keys that are read from its config.json, with what transformers takes for a key
that is not there, and the flags by which its blocks differ from Llama's. `config.json`'s `model_type` decides, or its
`architectures` where it has none.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from revision_jax.interop.files import load_config
from revision_jax.interop.model_keys import LLM_HARMLESS, llm_kinds
from revision_jax.known_keys import NAMES, TEXT, check_keys, check_kinds, fits, or_null
from revision_jax.models.llama import LlamaConfig
from revision_jax.models.names import ATTENTION_LINEARS, MLP_LINEARS
from revision_jax.models.rope import rope_kind

_NEEDED = object()  # transformers' own default is the size of one published model: a config without it is not whole
# Key -> its default. `None` sizes follow from others.
_KEYS: dict[str, Any] = {
    "vocab_size": _NEEDED,
    "hidden_size": _NEEDED,
    "intermediate_size": _NEEDED,
    "num_hidden_layers": _NEEDED,
    "num_attention_heads": _NEEDED,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 1e4,
    "rope_scaling": None,
    "rope_parameters": None,
    "original_max_position_embeddings": None,
}
_ORIGINAL = "original_max_position_embeddings"
_QWEN_WINDOW: dict[str, Any] = {
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}


def _every_layer(values: Mapping[str, Any]) -> int | None:
    """The window of a family all of whose layers have it, if any."""
    return values.get("sliding_window")


def _some_layers(values: Mapping[str, Any]) -> int | None:
    """The window of Qwen's families, where at least one layer has it."""
    if not values["use_sliding_window"]:
        return None
    types, layers = values["layer_types"], values["num_hidden_layers"]
    slides = values["max_window_layers"] < layers if types is None else "sliding_attention" in types
    return values["sliding_window"] if slides else None


@dataclasses.dataclass(frozen=True)
class Family:
    """What is special about a family.

    Attributes:
      architecture: transformers' class, as in config.json.
      keys: keys of config.json that are read beside `_KEYS`, or have another default.
      biases: linear layers that always have a bias.
      bias_keys: a key of config.json -> the layers that have a bias where it is true.
      qk_norm: whether heads of queries and keys are normalised.
      window: values of config.json -> the sliding window of its layers, None without.
    """

    architecture: str
    keys: Mapping[str, Any]
    biases: tuple[str, ...] = ()
    bias_keys: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    qk_norm: bool = False
    window: Callable[[Mapping[str, Any]], int | None] = _every_layer

    @property
    def defaults(self) -> dict[str, Any]:
        """Every key that is read -> what stands for it where it is missing."""
        return _KEYS | dict(self.keys)


FAMILIES: dict[str, Family] = {
    "llama": Family(
        "LlamaForCausalLM",
        {"max_position_embeddings": 2048, "attention_bias": False, "mlp_bias": False},
        bias_keys={"attention_bias": ATTENTION_LINEARS, "mlp_bias": MLP_LINEARS},
    ),
    "mistral": Family(
        "MistralForCausalLM",
        {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        {"max_position_embeddings": 32768, "num_key_value_heads": 32, **_QWEN_WINDOW},
        biases=("q_proj", "k_proj", "v_proj"),
        window=_some_layers,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        {
            "max_position_embeddings": 32768,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "attention_bias": False,
            **_QWEN_WINDOW,
        },
        bias_keys={"attention_bias": ATTENTION_LINEARS},
        qk_norm=True,
        window=_some_layers,
    ),
}


# ------------------------------------------------------------------------------------------------- in
def read_family(directory: str | Path) -> dict[str, Any]:
    """config.json of a language model, with the `model_type` of its family.

    Raises:
      FileNotFoundError: there is none.
      ValueError: another kind of model; the message lists the families.
    """
    raw = load_config(directory)
    check_kinds(f"{directory}/config.json", raw, {"model_type": or_null(TEXT), "architectures": or_null(NAMES)})
    name, classes = raw.get("model_type"), raw.get("architectures") or []
    if name is None:
        name = next((name for name, family in FAMILIES.items() if family.architecture in classes), None)
    family = FAMILIES.get(name)
    # Old files of Llama write its class as LLaMAForCausalLM.
    if family is None or (classes and family.architecture.lower() not in [str(one).lower() for one in classes]):
        known = ", ".join(f"{name} ({family.architecture})" for name, family in FAMILIES.items())
        raise ValueError(
            f"{directory}/config.json: model_type {raw.get('model_type')!r} with architectures {classes} is no "
            f"language model that is known here; expected one of {known}"
        )
    return raw | {"model_type": name}


def llama_config_of(raw: Mapping[str, Any], where: str | Path) -> LlamaConfig:
    """The sizes and flags that `read_family`'s config says; `where` names it in errors.

    Raises:
      ValueError: keys that are missing, and features that ours lacks.
    """
    name = raw["model_type"]
    family = FAMILIES[name]
    kinds = llm_kinds(family.defaults)
    check_kinds(where, raw, kinds)
    check_keys(where, raw, {*kinds, *LLM_HARMLESS})
    values = {key: raw.get(key, default) for key, default in family.defaults.items()} | {"model_type": name}
    missing = [key for key, value in values.items() if value is _NEEDED]
    if missing:
        raise ValueError(f"{where}: lacks {missing}, sizes that a {family.architecture} needs")
    if values["hidden_act"] != "silu":
        raise ValueError(f"{where}: hidden_act {values['hidden_act']!r}; only 'silu' is supported")
    with fits(where):
        return _sizes(family, values)


def _sizes(family: Family, values: Mapping[str, Any]) -> LlamaConfig:
    theta, scaling = _rope(values)
    heads = values["num_attention_heads"]
    return LlamaConfig(
        vocab_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=values["num_key_value_heads"] or heads,
        head_dim=values["head_dim"] or values["hidden_size"] // heads,
        rope_theta=theta,
        rope_scaling=scaling,
        rms_norm_eps=values["rms_norm_eps"],
        tie_word_embeddings=values["tie_word_embeddings"],
        max_position_embeddings=values["max_position_embeddings"],
        family=values["model_type"],
        biases=_biases(family, values),
        qk_norm=family.qk_norm,
        sliding_window=family.window(values),
    )


def _biases(family: Family, values: Mapping[str, Any]) -> tuple[str, ...]:
    return family.biases + tuple(name for key, names in family.bias_keys.items() if values[key] for name in names)


def _rope(values: Mapping[str, Any]) -> tuple[float, dict[str, Any] | None]:
    """(theta, scaling): `rope_theta` and `rope_scaling` in older configs, `rope_parameters` in newer.

    As in transformers, kinds that need the length of the first training take the model's positions where that is not
    said.
    """
    scaling = dict(values["rope_scaling"] or values["rope_parameters"] or {})
    theta = float(scaling.pop("rope_theta", values["rope_theta"]))
    scaling.setdefault("rope_type", scaling.pop("type", "default"))
    if scaling.get("partial_rotary_factor") == 1:
        del scaling["partial_rotary_factor"]
    kind, positions = rope_kind(scaling), values["max_position_embeddings"]
    if kind in ("llama3", "yarn"):
        if values[_ORIGINAL] is not None:
            scaling[_ORIGINAL] = values[_ORIGINAL]
        scaling.setdefault(_ORIGINAL, positions)
    if kind == "yarn" and scaling.get("factor") is None:
        scaling["factor"] = positions / scaling[_ORIGINAL]
    return theta, None if scaling == {"rope_type": "default"} else scaling


# ------------------------------------------------------------------------------------------------- out
def config_json_of(config: LlamaConfig, dtype: str) -> dict[str, Any]:
    """The config.json of a model in its family, without token ids.

    Raises:
      ValueError: its family's files cannot say what it is.
    """
    family = FAMILIES[config.family]
    raw = {
        "architectures": [family.architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "max_position_embeddings": config.max_position_embeddings,
        "torch_dtype": dtype,
    }
    raw |= {key: set(names) <= set(config.biases) for key, names in family.bias_keys.items()}
    if family.window is _every_layer and "sliding_window" in family.keys:
        raw["sliding_window"] = config.sliding_window
    said = llama_config_of(raw, "config.json")
    differing = [
        field.name for field in dataclasses.fields(config) if getattr(said, field.name) != getattr(config, field.name)
    ]
    if differing:
        given = {name: getattr(config, name) for name in differing}
        raise ValueError(f"{given} cannot be said in the config.json of a {family.architecture}; take another family")
    return raw
