"""What an encoder of pictures and sentences is to the rest of the program: CLIP (clip.py), SigLIP (siglip.py).

Letters: B pictures, S image side, Q sentences, T text tokens, D feature width, W token width.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from revision_jax.models.layers import wide
from revision_jax.models.towers import TextConfig, VisionConfig


class EncoderConfig(Protocol):
    """Sizes of an encoder.

    Attributes:
      feature_width: `D`, of a picture's and of a sentence's feature.
      token_width: `W`, of the features of a sentence's tokens.
    """

    vision: VisionConfig
    text: TextConfig

    @property
    def feature_width(self) -> int: ...

    @property
    def token_width(self) -> int: ...


class ImageTextEncoder(Protocol):
    """The two towers. Every encoder is made as `Encoder(config, rngs=, dtype=, param_dtype=, attention=)`."""

    config: EncoderConfig

    def __init__(
        self,
        config: EncoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        attention: str = "auto",
    ): ...

    def encode_image(self, pixels: jax.Array) -> jax.Array:
        """Normalised pixels [B, S, S, 3] float32 -> features [B, D], not L2-normalised."""
        ...

    def encode_text(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[Q, T] int32, right-padded -> (token features [Q, T, W] after the last norm, sentence features [Q, D])."""
        ...

    def logits(self, images: jax.Array, texts: jax.Array) -> jax.Array:
        """Features [B, D] and [Q, D] -> how well they fit [Q, B] float32, in the terms of the encoder's own loss.

        The order is that of the cosines, which is all that the search's rankings and thresholds use.
        """
        ...


def unit(x: jax.Array) -> jax.Array:
    """[..., D] -> of length 1, float32."""
    x = wide(x)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
