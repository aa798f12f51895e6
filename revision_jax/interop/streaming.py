"""A Llama's logits computed layer by layer from its files: no more than one layer is in memory.

For checks of a conversion: slow, in float32, and of any size. Letters: B batch, T tokens, H width, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax.interop.llama import llama_table
from revision_jax.interop.lora import LoRA
from revision_jax.interop.table import LAYER, Table, flat_params, import_params
from revision_jax.models.layers import shapes_of
from revision_jax.models.llama import Llama, LlamaConfig

_EMBEDDING, _NORM, _HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"


def embed(tensors: Mapping[str, Any], tokens: np.ndarray) -> np.ndarray:
    """Tokens [...] -> embeddings [..., H] float32."""
    return np.asarray(tensors[_EMBEDDING])[tokens].astype(np.float32)


def stream_logits(
    config: LlamaConfig, tensors: Mapping[str, Any], embeddings: np.ndarray, lora: LoRA | None = None
) -> np.ndarray:
    """Embeddings [B, T, H] -> logits [B, T, V] float32, of a causal pass; a LoRA is added, not merged.

    Args:
      tensors: a language model's state dict; each tensor of a layer is read once.
    """
    # One block of the same sizes: compiled once, filled with each layer in turn.
    one = dataclasses.replace(config, num_layers=1, vocab_size=1, tie_word_embeddings=True)
    block = shapes_of(lambda rngs: Llama(one, lora=None if lora is None else lora.config, rngs=rngs))
    params = flat_params(block)
    params["embed_tokens/embedding"].set_value(jnp.zeros((1, config.hidden_size)))
    params["norm/scale"].set_value(jnp.asarray(np.asarray(tensors[_NORM]).astype(np.float32)))
    table = Table(tuple(row for row in llama_table(one).rows if row.stacked))
    weights = {row.ours: params[row.ours] for row in table.rows}

    @jax.jit
    def run(state: nnx.State, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        block = nnx.merge(graphdef, state)
        normed, _, states = block.prefill(h, states=True)
        return states[-1], normed

    h = normed = jnp.asarray(embeddings, jnp.float32)
    for layer in range(config.num_layers):
        numbered = {row.theirs.replace(LAYER, "0"): row.theirs.replace(LAYER, str(layer)) for row in table.rows}
        import_params(table, {one: tensors[key] for one, key in numbered.items()}, weights)
        for path, array in (lora.arrays if lora else {}).items():
            params[path].set_value(jnp.asarray(array[layer : layer + 1]))
        graphdef, state = nnx.split(block)
        h, normed = run(state, h)
    head = tensors[_EMBEDDING if config.tie_word_embeddings else _HEAD]
    return np.asarray(jnp.matmul(normed, jnp.asarray(np.asarray(head).astype(np.float32)).T, precision="highest"))
