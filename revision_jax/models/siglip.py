"""SigLIP (arXiv 2303.15343) and SigLIP 2 at a fixed resolution (arXiv 2502.14786): CLIP's idea with a sigmoid loss.

Pictures have no class token: a learned probe attends to all patches. Texts are padded to their full length, and every
token sees every other, the padding too. Letters: B batch, S image side, N patches, T text tokens, W tower width,
D feature width, L layers.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from revision_jax.models.attention import attention as attend
from revision_jax.models.attention import check_backend
from revision_jax.models.encoder import unit
from revision_jax.models.layers import LayerNorm, Linear, Stack, normal, parameter
from revision_jax.models.precision import product
from revision_jax.models.towers import MLP, TextConfig, TowerLayers, VisionConfig, embed_patches, embed_tokens

LOGIT_SCALE, LOGIT_BIAS = 2.3026, -10.0  # where the paper's training starts: ln 10, and almost every pair is none


@dataclasses.dataclass(frozen=True)
class SigLIPConfig:
    """`projection_size`: of a sentence's feature; it must be the width of the vision tower."""

    vision: VisionConfig
    text: TextConfig
    projection_size: int

    def __post_init__(self):
        if self.projection_size != self.vision.hidden_size:
            raise ValueError(
                f"sentences have features of width {self.projection_size} (text_config.projection_size), pictures of "
                f"{self.vision.hidden_size} (vision_config.hidden_size); expected the same width"
            )

    @property
    def feature_width(self) -> int:
        """`D`."""
        return self.projection_size

    @property
    def token_width(self) -> int:
        """`W` of the text tower."""
        return self.text.hidden_size


class PoolingHead(nnx.Module):
    """A learned probe attends to the patches: `attention` with q, k and v side by side, then a residual MLP."""

    def __init__(self, config: VisionConfig, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs):
        width, self.num_heads = config.hidden_size, config.num_heads
        one = Stack(None, dtype, param_dtype)

        def linear(shape: tuple[int, int], axes: tuple[str | None, str | None], *, init: Any) -> Linear:
            return Linear(shape, axes, init=init, rngs=rngs, stack=one)

        init = normal(width**-0.5)
        self.probe = parameter(rngs, init, (width,), ("embed",), param_dtype)
        # An axis without a name, for shards of it would cut across q, k and v.
        self.in_proj = linear((width, 3 * width), ("embed", None), init=init)
        self.out_proj = linear((width, width), ("embed", None), init=init)
        self.layernorm = LayerNorm(width, axis="norm", eps=config.layer_norm_eps, stack=one, rngs=rngs)
        self.mlp = MLP(config, linear)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Patches [B, N, W] after the last norm -> [B, W]."""
        kernels, biases = (jnp.split(p[...].astype(x.dtype), 3, -1) for p in (self.in_proj.kernel, self.in_proj.bias))
        probe = jnp.broadcast_to(self.probe[...].astype(x.dtype), (x.shape[0], 1, x.shape[-1]))
        q, k, v = (
            (product(y, kernel) + bias).reshape(*y.shape[:-1], self.num_heads, -1)
            for y, kernel, bias in zip((probe, x, x), kernels, biases)
        )
        # One query a picture: there is nothing for a kernel to win.
        x = self.out_proj(attend(q, k, v, backend="xla").reshape(probe.shape))
        return (x + self.mlp(self.layernorm(x)))[:, 0]


class SigLIPVision(nnx.Module):
    """Patches through the tower; the pooled patches are the image."""

    def __init__(self, config: VisionConfig, *, dtype: Any, param_dtype: Any, backend: str, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        width, patch = config.hidden_size, config.patch_size
        positions = config.grid**2
        shape, axes = (patch, patch, 3, width), (None, None, None, "embed")
        init = normal(width**-0.5)
        self.patch_embedding = parameter(rngs, init, shape, axes, param_dtype)
        self.patch_bias = parameter(rngs, nnx.initializers.zeros, (width,), ("embed",), param_dtype)
        self.position_embedding = parameter(rngs, init, (positions, width), (None, "embed"), param_dtype)
        self.layers = TowerLayers(config, dtype=dtype, param_dtype=param_dtype, backend=backend, rngs=rngs)
        one = Stack(dtype=dtype)
        self.post_layernorm = LayerNorm(width, axis="norm", eps=config.layer_norm_eps, stack=one, rngs=rngs)
        self.head = PoolingHead(config, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def embed(self, pixels: jax.Array) -> jax.Array:
        """[B, S, S, 3] -> [B, N, W]."""
        kernel, bias, positions = (
            p[...].astype(self.dtype) for p in (self.patch_embedding, self.patch_bias, self.position_embedding)
        )
        return embed_patches(pixels, kernel, self.config) + bias + positions

    def tokens(self, pixels: jax.Array) -> jax.Array:
        """[B, S, S, 3] -> patches [B, N, W] after the last norm."""
        return self.post_layernorm(self.layers.run(self.embed(pixels), causal=False)[0])

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """[B, S, S, 3] -> pooled patches [B, W]."""
        return self.head(self.tokens(pixels))

    def hidden_states(self, pixels: jax.Array) -> jax.Array:
        """[L + 1, B, N, W]: the blocks' input and every output."""
        return self.layers.run(self.embed(pixels), causal=False, collect=True)[1]


class SigLIPText(nnx.Module):
    """A tower over tokens without a mask; the last token, usually padding, is the sentence."""

    def __init__(self, config: SigLIPConfig, *, dtype: Any, param_dtype: Any, backend: str, rngs: nnx.Rngs):
        self.dtype = dtype
        text, width = config.text, config.text.hidden_size
        init = normal(width**-0.5)
        self.token_embedding = parameter(rngs, init, (text.vocab_size, width), ("vocab", "embed"), param_dtype)
        positions = (text.max_position_embeddings, width)
        self.position_embedding = parameter(rngs, init, positions, (None, "embed"), param_dtype)
        self.layers = TowerLayers(text, dtype=dtype, param_dtype=param_dtype, backend=backend, rngs=rngs)
        one = Stack(None, dtype, param_dtype)
        self.final_layer_norm = LayerNorm(width, axis="norm", eps=text.layer_norm_eps, stack=one, rngs=rngs)
        shape = (width, config.projection_size)
        self.head = Linear(shape, ("embed", "visual"), init=init, rngs=rngs, stack=one)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """[B, T] int32 -> [B, T, W]; a token outside the vocabulary becomes NaN."""
        return embed_tokens(tokens, self.token_embedding[...], self.position_embedding[...]).astype(self.dtype)

    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, T], padded to the length of training -> (every token [B, T, W] after the last norm, sentences [B, D])."""
        last, _ = self.layers.run(self.embed(tokens), causal=False)
        features = self.final_layer_norm(last)
        return features, self.head(features[:, -1])

    def hidden_states(self, tokens: jax.Array) -> jax.Array:
        """[L + 1, B, T, W]: the embeddings and every block's output."""
        return self.layers.run(self.embed(tokens), causal=False, collect=True)[1]


class SigLIP(nnx.Module):
    """Both towers; see `models.encoder.ImageTextEncoder`."""

    def __init__(
        self,
        config: SigLIPConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        attention: str = "auto",
    ):
        self.config = config
        tower = dict(dtype=dtype, param_dtype=param_dtype, backend=check_backend(attention), rngs=rngs)
        self.vision = SigLIPVision(config.vision, **tower)
        self.text = SigLIPText(config, **tower)
        constant = jax.nn.initializers.constant
        self.logit_scale = parameter(rngs, constant(LOGIT_SCALE), (1,), (None,))
        self.logit_bias = parameter(rngs, constant(LOGIT_BIAS), (1,), (None,))

    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """Normalised pixels [B, S, S, 3] float32 -> pooled patches [B, D], not L2-normalised."""
        return self.vision(pixels)

    def encode_text(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B, T] int32, padded to the length of training -> (token features [B, T, W] after the last norm; sentence
        features [B, D], not L2-normalised). Features of padding mean nothing by themselves, but others saw them."""
        return self.text(tokens)

    def logits(self, images: jax.Array, texts: jax.Array) -> jax.Array:
        """Features [B, D] and [Q, D] -> logits [Q, B] float32: their sigmoid is how likely a pair belongs together."""
        return product(unit(texts), unit(images).T) * jnp.exp(self.logit_scale[...]) + self.logit_bias[...]
