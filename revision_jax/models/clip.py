"""CLIP (arXiv 2103.00020): a vision and a text transformer into one space.

Letters: B batch, S image side, N patches + 1, T text tokens, W tower width, D projection width, L layers.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from revision_jax.models.attention import check_backend
from revision_jax.models.encoder import unit
from revision_jax.models.layers import LayerNorm, Linear, Stack, normal, parameter
from revision_jax.models.precision import product
from revision_jax.models.towers import TextConfig, TowerLayers, VisionConfig, embed_patches, embed_tokens

LOGIT_SCALE = 2.6592  # ln(1 / 0.07)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig(VisionConfig):
    """`hidden_act` is "quick_gelu" for OpenAI's weights, "gelu" for others."""

    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPTextConfig(TextConfig):
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    max_position_embeddings: int = 77
    eos_token_id: int = 49407


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    vision: CLIPVisionConfig
    text: CLIPTextConfig
    projection_dim: int

    @property
    def feature_width(self) -> int:
        """`D`."""
        return self.projection_dim

    @property
    def token_width(self) -> int:
        """`W` of the text tower."""
        return self.text.hidden_size


class CLIPVision(nnx.Module):
    """Patches and a class token through the tower; the class token is the image."""

    def __init__(self, config: CLIPVisionConfig, *, dtype: Any, param_dtype: Any, backend: str, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        width, patch = config.hidden_size, config.patch_size
        positions = config.grid**2 + 1
        norm = lambda: LayerNorm(width, axis="norm", eps=config.layer_norm_eps, stack=Stack(dtype=dtype), rngs=rngs)
        shape, axes = (patch, patch, 3, width), (None, None, None, "embed")
        self.patch_embedding = parameter(rngs, normal(0.02), shape, axes, param_dtype)
        self.class_embedding = parameter(rngs, normal(width**-0.5), (width,), ("embed",), param_dtype)
        self.position_embedding = parameter(rngs, normal(0.02), (positions, width), (None, "embed"), param_dtype)
        self.pre_layernorm = norm()
        self.layers = TowerLayers(config, dtype=dtype, param_dtype=param_dtype, backend=backend, rngs=rngs)
        self.post_layernorm = norm()

    def embed(self, pixels: jax.Array) -> jax.Array:
        """[B, S, S, 3] -> [B, N, W] after the first norm."""
        x = embed_patches(pixels, self.patch_embedding[...].astype(self.dtype), self.config)
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
        self.layers = TowerLayers(config, dtype=dtype, param_dtype=param_dtype, backend=backend, rngs=rngs)
        one = Stack(dtype=dtype)
        self.final_layer_norm = LayerNorm(width, axis="norm", eps=config.layer_norm_eps, stack=one, rngs=rngs)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """[B, T] int32 -> [B, T, W]; a token outside the vocabulary becomes NaN."""
        return embed_tokens(tokens, self.token_embedding[...], self.position_embedding[...]).astype(self.dtype)

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

    def logits(self, images: jax.Array, texts: jax.Array) -> jax.Array:
        """Features [B, D] and [Q, D] of `encode_image` and `encode_text` -> scaled cosines [Q, B] float32."""
        return product(unit(texts), unit(images).T) * jnp.exp(self.logit_scale[...])
