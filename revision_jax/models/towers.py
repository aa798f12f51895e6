"""What the towers of image-and-text encoders share: their sizes, their pre-norm blocks, patches of a picture.

Letters: B batch, S image side, P patch side, G patches in a row, N tokens, W tower width, L layers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from revision_jax.models.attention import attention
from revision_jax.models.layers import LayerNorm, Linear, Stack, normal, scan_layers
from revision_jax.models.precision import product

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """What every tower has; `hidden_act` is one of `ACTIVATIONS`, as transformers names them."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    hidden_act: str
    layer_norm_eps: float

    def __post_init__(self):
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {self.hidden_act!r}; expected one of {sorted(ACTIVATIONS)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig(TowerConfig):
    """Texts of at most `max_position_embeddings` tokens out of `vocab_size`."""

    vocab_size: int
    max_position_embeddings: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig(TowerConfig):
    """Square pictures of `image_size` pixels, cut into patches of `patch_size`."""

    image_size: int
    patch_size: int

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.patch_size <= self.image_size:
            raise ValueError(f"patch_size {self.patch_size} must be 1 to {self.image_size}, the image_size")

    @property
    def grid(self) -> int:
        """`G`: whole patches in a row; pixels beyond them are not seen, as in so400m-patch14-384 with 27."""
        return self.image_size // self.patch_size


def embed_patches(pixels: jax.Array, kernel: jax.Array, config: VisionConfig) -> jax.Array:
    """Pictures [B, S, S, 3], kernel [P, P, 3, W] of their dtype -> [B, G * G, W]; cut by reshape, no convolution.

    Raises:
      ValueError: pictures of another size.
    """
    size, patch, grid = config.image_size, config.patch_size, config.grid
    if pixels.shape[1:] != (size, size, 3):
        raise ValueError(f"pixels have shape {pixels.shape}; expected [batch, {size}, {size}, 3]")
    pixels = pixels[:, : grid * patch, : grid * patch]
    x = pixels.astype(kernel.dtype).reshape(-1, grid, patch, grid, patch, 3).swapaxes(2, 3)
    return product(x.reshape(-1, grid * grid, patch * patch * 3), kernel.reshape(patch * patch * 3, -1))


def embed_tokens(tokens: jax.Array, table: jax.Array, positions: jax.Array) -> jax.Array:
    """Tokens [B, T] int32 -> [B, T, W], each with its position's row; a token outside the vocabulary becomes NaN.

    Raises:
      ValueError: more tokens than positions.
    """
    length, limit = tokens.shape[1], len(positions)
    if length > limit:
        raise ValueError(f"text has {length} tokens; this encoder takes at most {limit}: truncate it")
    return jnp.take(table, tokens, axis=0, mode="fill") + positions[:length]


class SelfAttention(nnx.Module):
    """Multi-head self-attention with biases."""

    def __init__(self, config: TowerConfig, linear: Callable[..., Linear], backend: str):
        self.num_heads = config.num_heads
        self.backend = backend
        width = config.hidden_size
        init = normal(width**-0.5 * (2 * config.num_layers) ** -0.5)
        self.q_proj, self.k_proj, self.v_proj = (
            linear((width, width), ("embed", "heads"), init=init) for _ in range(3)
        )
        self.out_proj = linear((width, width), ("heads", "embed"), init=normal(width**-0.5))

    def __call__(self, x: jax.Array, causal: bool) -> jax.Array:
        split_heads = lambda y: y.reshape(*y.shape[:-1], self.num_heads, -1)
        q, k, v = (split_heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attention(q, k, v, causal=causal, backend=self.backend).reshape(x.shape))


class MLP(nnx.Module):
    """fc2(act(fc1(x)))."""

    def __init__(self, config: TowerConfig, linear: Callable[..., Linear]):
        width, inner = config.hidden_size, config.intermediate_size
        self.activation = config.hidden_act
        self.fc1 = linear((width, inner), ("embed", "mlp"), init=normal((2 * width) ** -0.5))
        init = normal(width**-0.5 * (2 * config.num_layers) ** -0.5)
        self.fc2 = linear((inner, width), ("mlp", "embed"), init=init)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class TowerLayers(nnx.Module):
    """All pre-norm blocks of a tower, stacked: every parameter [L, ...]."""

    def __init__(self, config: TowerConfig, *, dtype: Any, param_dtype: Any, backend: str, rngs: nnx.Rngs):
        stack = Stack(config.num_layers, dtype, param_dtype)
        linear = functools.partial(Linear, rngs=rngs, stack=stack)
        norm = lambda: LayerNorm(config.hidden_size, axis="norm", eps=config.layer_norm_eps, stack=stack, rngs=rngs)
        self.layer_norm1 = norm()
        self.self_attn = SelfAttention(config, linear, backend)
        self.layer_norm2 = norm()
        self.mlp = MLP(config, linear)

    def run(self, h: jax.Array, *, causal: bool, collect: bool = False) -> tuple[jax.Array, jax.Array | None]:
        """[B, N, W] -> (last [B, N, W], with `collect` also the input and every output [L + 1, B, N, W])."""

        def step(layer: TowerLayers, h: jax.Array, _: None) -> tuple[jax.Array, jax.Array | None]:
            h = h + layer.self_attn(layer.layer_norm1(h), causal)
            h = h + layer.mlp(layer.layer_norm2(h))
            return h, h if collect else None

        last, states = scan_layers(self, step, h)
        return last, jnp.concatenate([h[None], states]) if collect else None
