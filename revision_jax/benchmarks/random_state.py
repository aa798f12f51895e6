"""Random arrays in the places of a train step's: weights, state, a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ANSWER = 8  # tokens under the loss a text


def fill(tree: Any, key: jax.Array) -> Any:
    """Random arrays for shapes in their places: N(0, 0.02), ones for norms, zeros where LoRA's B and counters start."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)

    def make():
        return [_draw(jax.tree_util.keystr(path), leaf, jax.random.fold_in(key, i)) for i, (path, leaf) in
                enumerate(leaves)]  # fmt: skip

    arrays = jax.jit(make, out_shardings=[leaf.sharding for _, leaf in leaves])()
    return jax.tree.unflatten(structure, arrays)


def _draw(path: str, leaf, key: jax.Array) -> jax.Array:
    if "scale" in path:
        return jnp.ones(leaf.shape, leaf.dtype)
    if "opt_state" in path or "lora_b" in path or "bias" in path or not jnp.issubdtype(leaf.dtype, jnp.floating):
        return jnp.zeros(leaf.shape, leaf.dtype)
    return 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)


def make_batch(shapes: dict, vocabulary: int) -> dict[str, jax.Array]:
    """Random features and tokens; the loss is on the last `ANSWER` tokens."""
    rng = np.random.default_rng(0)
    values = {
        "video": rng.normal(size=shapes["video"].shape).astype(np.float16),
        "tokens": rng.integers(0, vocabulary, shapes["tokens"].shape, dtype=np.int32),
        "loss_mask": np.broadcast_to(np.arange(shapes["tokens"].shape[-1]) >= shapes["tokens"].shape[-1] - ANSWER,
                                     shapes["tokens"].shape),
    }  # fmt: skip
    return {name: jax.device_put(value, shapes[name].sharding) for name, value in values.items()}
