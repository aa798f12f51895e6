"""CLIP (arXiv 2103.00020): a vision and a text transformer into one space.

Letters: B batch, S image side, N patches + 1, T text tokens, W tower width, D projection width, L layers.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from revision_jax.models.attention import attention, check_backend
from revision_jax.models.layers import LayerNorm, Linear, Stack, normal, parameter, scan_layers

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}
LOGIT_SCALE = 2.6592  # ln(1 / 0.07)


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """What both towers have; `hidden_act` is "quick_gelu" (OpenAI's weights) or "gelu"."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self):
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {self.hidden_act!r}; expected one of {sorted(ACTIVATIONS)}")
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} must be a multiple of num_heads {self.num_heads}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(TowerConfig):
    image_size: int
    patch_size: int

    def __post_init__(self):
        super().__post_init__()
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(TowerConfig):
    vocab_size: int
    max_position_embeddings: int = 77
    eos_token_id: int = 49407


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    vision: CLIPVisionConfig
    text: CLIPTextConfig
    projection_dim: int


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


class CLIPLayers(nnx.Module):
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

        def step(layer: CLIPLayers, h: jax.Array, _: None) -> tuple[jax.Array, jax.Array | None]:
            h = h + layer.self_attn(layer.layer_norm1(h), causal)
            h = h + layer.mlp(layer.layer_norm2(h))
            return h, h if collect else None

        last, states = scan_layers(self, step, h)
        return last, jnp.concatenate([h[None], states]) if collect else None


class CLIPVision(nnx.Module):
    """Patches and a class token through the tower; the class token is the image."""

    def __init__(self, config: CLIPVisionConfig, *, dtype: Any, param_dtype: Any, backend: str, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        width, patch = config.hidden_size, config.patch_size
        positions = (config.image_size // patch) ** 2 + 1
        norm = lambda: LayerNorm(width, axis="norm", eps=config.layer_norm_eps, stack=Stack(dtype=dtype), rngs=rngs)
        shape, axes = (patch, patch, 3, width), (None, None, None, "embed")
        self.patch_embedding = parameter(rngs, normal(0.02), shape, axes, param_dtype)
        self.class_embedding = parameter(rngs, normal(width**-0.5), (width,), ("embed",), param_dtype)
        self.position_embedding = parameter(rngs, normal(0.02), (positions, width), (None, "embed"), param_dtype)
        self.pre_layernorm = norm()
        self.layers = CLIPLayers(config, dtype=dtype, param_dtype=param_dtype, backend=backend, rngs=rngs)
        self.post_layernorm = norm()

    def embed(self, pixels: jax.Array) -> jax.Array:
        """[B, S, S, 3] -> [B, N, W] after the first norm. Patches are cut by reshape: no convolution."""
        size, patch = self.config.image_size, self.config.patch_size
        if pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"pixels have shape {pixels.shape}; expected [batch, {size}, {size}, 3]")
        grid = size // patch
        x = pixels.astype(self.dtype).reshape(-1, grid, patch, grid, patch, 3).swapaxes(2, 3)
        kernel = self.patch_embedding[...].astype(self.dtype)
        x = x.reshape(-1, grid * grid, patch * patch * 3) @ kernel.reshape(patch * patch * 3, -1)
        cls = jnp.broadcast_to(self.class_embedding[...].astype(self.dtype), (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([cls, x], axis=1)
        return self.pre_layernorm(x + self.position_embedding[...].astype(self.dtype))

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """[B, S, S, 3] -> class token [B, W] after the last norm."""
        last, _ = self.layers.run(self.embed(pixels), causal=False)
        return self.post_layernorm(last[:, 0])

    def hidden_states(self, pixels: jax.Array) -> jax.Array:
        """[L + 1, B, N, W]: the blocks' input and every output."""
        return self.layers.run(self.embed(pixels), causal=False, collect=True)[1]


class CLIPText(nnx.Module):
    """A causal tower over tokens."""

    def __init__(self, config: CLIPTextConfig, *, dtype: Any, param_dtype: Any, backend: str, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        width = config.hidden_size
        self.token_embedding = parameter(
            rngs, normal(0.02), (config.vocab_size, width), ("vocab", "embed"), param_dtype
        )
        self.position_embedding = parameter(
            rngs, normal(0.02), (config.max_position_embeddings, width), (None, "embed"), param_dtype
        )
        self.layers = CLIPLayers(config, dtype=dtype, param_dtype=param_dtype, backend=backend, rngs=rngs)
        one = Stack(dtype=dtype)
        self.final_layer_norm = LayerNorm(width, axis="norm", eps=config.layer_norm_eps, stack=one, rngs=rngs)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """[B, T] int32 -> [B, T, W]; a token outside the vocabulary becomes NaN."""
        length, limit = tokens.shape[1], self.config.max_position_embeddings
        if length > limit:
            raise ValueError(f"text has {length} tokens; this CLIP takes at most {limit}: truncate it")
        x = jnp.take(self.token_embedding[...], tokens, axis=0, mode="fill")
        return (x + self.position_embedding[:length]).astype(self.dtype)

    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, T] -> (every token [B, T, W] after the last norm, the end-of-text token's [B, W])."""
        last, _ = self.layers.run(self.embed(tokens), causal=True)
        features = self.final_layer_norm(last)
        end = self._end(tokens)
        return features, jnp.take_along_axis(features, end[:, None, None], axis=1)[:, 0]

    def hidden_states(self, tokens: jax.Array) -> jax.Array:
        """[L + 1, B, T, W]: the embeddings and every block's output."""
        return self.layers.run(self.embed(tokens), causal=True, collect=True)[1]

    def _end(self, tokens: jax.Array) -> jax.Array:
        """[B] index of the end of text; eos id 2 of old configs means the largest id, as in transformers."""
        if self.config.eos_token_id == 2:
            return tokens.argmax(-1)
        return (tokens == self.config.eos_token_id).argmax(-1)


class CLIP(nnx.Module):
    """Both towers and their projections, initialised as Hugging Face does; trains from scratch too."""

    def __init__(
        self,
        config: CLIPConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        attention: str = "auto",
    ):
        self.config = config
        self.dtype = dtype
        tower = dict(dtype=dtype, param_dtype=param_dtype, backend=check_backend(attention), rngs=rngs)
        self.vision = CLIPVision(config.vision, **tower)
        self.text = CLIPText(config.text, **tower)

        def projection(width: int) -> Linear:
            shape, one = (width, config.projection_dim), Stack(None, dtype, param_dtype)
            return Linear(shape, ("embed", "visual"), init=normal(width**-0.5), rngs=rngs, bias=False, stack=one)

        self.visual_projection = projection(config.vision.hidden_size)
        self.text_projection = projection(config.text.hidden_size)
        self.logit_scale = parameter(rngs, jax.nn.initializers.constant(LOGIT_SCALE), (), ())

    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """Normalised pixels [B, S, S, 3] float32 -> projected class token [B, D], not L2-normalised."""
        return self.visual_projection(self.vision(pixels))

    def encode_text(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, T] int32, right-padded -> (token features [B, T, W] after the last norm, not projected;
        holistic feature [B, D], the projected end-of-text token). Features after the end of text: noise."""
        features, end = self.text(tokens)
        return features, self.text_projection(end)
