"""Language models in the Hugging Face format, both ways: one table of weights for all families (`families.py`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax.interop.families import config_json_of, llama_config_of, read_family
from revision_jax.interop.files import write_directory
from revision_jax.interop.table import (
    TRANSPOSED,
    Place,
    Row,
    Table,
    export_params,
    flat_params,
    import_params,
    match,
)
from revision_jax.interop.weights import Weights
from revision_jax.models.layers import shapes_of
from revision_jax.models.llama import FLOAT32, Compute, Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig, LoRALinear
from revision_jax.models.names import ATTENTION_LINEARS, MLP_LINEARS
from revision_jax.parallel.programs import Program

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
LINEARS = {"self_attn": ATTENTION_LINEARS, "mlp": MLP_LINEARS}


def llama_table(config: LlamaConfig) -> Table:
    """The rows of a family's causal language model, whose keys are those of `LlamaForCausalLM`.

    A tied model has no head of its own; a copy is ignored (`check_tied`).
    """
    rows = [
        Row("model.embed_tokens.weight", "embed_tokens/embedding"),
        Row("model.norm.weight", "norm/scale"),
    ]
    for norm in ("input_layernorm", "post_attention_layernorm"):
        rows.append(Row(f"model.layers.{{layer}}.{norm}.weight", f"layers/{norm}/scale"))
    for block, names in LINEARS.items():
        for name in names:
            theirs, ours = f"model.layers.{{layer}}.{block}.{name}.weight", f"layers/{block}/{name}/kernel"
            rows.append(Row(theirs, ours, TRANSPOSED))
            if name in config.biases:
                rows.append(Row(theirs.replace(".weight", ".bias"), ours.replace("/kernel", "/bias")))
    for norm in ("q_norm", "k_norm") if config.qk_norm else ():
        rows.append(Row(f"model.layers.{{layer}}.self_attn.{norm}.weight", f"layers/self_attn/{norm}/scale"))
    ignored = [r".*\.rotary_emb\.inv_freq"]
    if config.tie_word_embeddings:
        ignored.append(r"lm_head\.weight")
    else:
        rows.append(Row("lm_head.weight", "lm_head/kernel", TRANSPOSED))
    return Table(tuple(rows), tuple(ignored))


def read_llama_config(directory: str | Path) -> LlamaConfig:
    """The `LlamaConfig` of a directory's config.json. ValueError for a family or features that ours lacks."""
    return llama_config_of(read_family(directory), f"{directory}/config.json")


def check_tied(config: LlamaConfig, tensors: Mapping[str, Any], source: str | Path) -> None:
    """Raises ValueError where a tied model's file has a head of its own: which one is meant is not ours to say."""
    if not config.tie_word_embeddings or _HEAD not in tensors:
        return
    head, embedding = (np.asarray(tensors[key]) for key in (_HEAD, _EMBEDDING))
    if not np.array_equal(head, embedding):
        raise ValueError(
            f"{source}: tie_word_embeddings is true, but {_HEAD} is not {_EMBEDDING}; "
            "set tie_word_embeddings to false in config.json to use the file's head, or remove that tensor"
        )


def check_llama(directory: str | Path) -> LlamaConfig:
    """Whether a directory holds whole files with every tensor its config.json promises: only headers are read,
    and the copy of a tied head.

    Raises ValueError where the files and the model disagree, FileNotFoundError for missing files.
    """
    config = read_llama_config(directory)
    params = flat_params(shapes_of(lambda rngs: Llama(config, rngs=rngs)))
    weights = Weights(directory)
    match(llama_table(config), weights, params, directory)
    check_tied(config, weights, directory)
    return config


def load_llama(
    directory: str | Path,
    *,
    lora: LoRAConfig | None = None,
    compute: Compute = FLOAT32,
    rngs: nnx.Rngs | None = None,
    place: Place | None = None,
) -> Llama:
    """A Llama with a directory's weights and, with `lora`, a fresh LoRA drawn from `rngs`.

    Args:
      directory: config.json, and the weights as .safetensors or .bin.
      compute: how it computes; the weights are cast to its `param_dtype`.
      place: puts each parameter where it belongs, for example into its shards (`table.Place`).

    Raises:
      ValueError: the files and the model disagree; a LoRA without `rngs`.
      FileNotFoundError: missing files.
    """
    config = read_llama_config(directory)
    if lora is not None and rngs is None:
        raise ValueError("a fresh LoRA needs rngs to be drawn from")

    build = lambda rngs: Llama(config, lora=lora, compute=compute, rngs=rngs)
    model = shapes_of(build)
    params = flat_params(model)
    drawn = {path: param for path, param in params.items() if is_lora_path(path)}
    base = {path: param for path, param in params.items() if path not in drawn}
    weights = Weights(directory)
    import_params(llama_table(config), weights, base, place, source=directory)
    check_tied(config, weights, directory)
    if drawn:
        fresh = Program(_draw_lora, config, lora, compute)(rngs.params())
        for path, param in drawn.items():
            param.set_value(fresh[path] if place is None else place(path, param, np.asarray(fresh[path])))
    return model


def save_llama(model: Llama, directory: str | Path, **token_ids: int | None) -> None:
    """Writes config.json and model.safetensors as the model's family has them; a LoRA is merged into its kernels.

    `token_ids` (bos_token_id, eos_token_id, pad_token_id) go into config.json; those left out become
    None, for the model does not know them and transformers would fill in Llama's own.
    """
    unknown = sorted(set(token_ids) - set(_TOKEN_IDS))
    if unknown:
        raise ValueError(f"{unknown} are not token ids of config.json; expected {list(_TOKEN_IDS)}")
    arrays = {path: param[...] for path, param in flat_params(model).items() if not is_lora_path(path)}
    for path, module in nnx.iter_modules(model):
        if isinstance(module, LoRALinear) and module.lora is not None:
            arrays["/".join(map(str, (*path, "kernel")))] = module.merge()
    config = config_json_of(model.config, jnp.dtype(model.compute.param_dtype).name)
    config |= dict.fromkeys(_TOKEN_IDS) | token_ids
    write_directory(directory, config, export_params(llama_table(model.config), arrays))


def is_lora_path(path: str) -> bool:
    """Whether a parameter of a Llama is half of a LoRA."""
    return path.endswith(("/lora_a", "/lora_b"))


def _draw_lora(config: LlamaConfig, lora: LoRAConfig, compute: Compute, key: jax.Array) -> dict[str, jax.Array]:
    """A fresh LoRA by path. Under jit only what is returned is computed: the base weights are never drawn."""
    model = Llama(config, lora=lora, compute=compute, rngs=nnx.Rngs(key))
    return {path: param[...] for path, param in flat_params(model).items() if is_lora_path(path)}
