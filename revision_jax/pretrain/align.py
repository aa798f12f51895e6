"""Fits the tiny projector: CLIP features to the mixtures of word embeddings that the tiny LLM reads.

The published projector is trained on image captions (stage "align"). Here the words of every frame are known, so
the same end is reached in closed form: a ridge regression from features to `lookup_lm.frame_tokens`.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax.models.adapter import DenseAdapter
from revision_jax.models.llama import Llama
from revision_jax.pretrain import attributes, shapes_clip
from revision_jax.pretrain.lookup_lm import frame_tokens


def fit_projector(
    encode, llm: Llama, tokenizer, *, seed: int = 2, images: int = 20_000, ridge: float = 1.0
) -> DenseAdapter:
    """The dense adapter `D -> H` that maps features of random frames to their words.

    Args:
      encode: pictures `[n, SIZE, SIZE, 3]` uint8 -> features `[n, D]`.
    """
    rng = np.random.default_rng([seed, 31])
    pictures, word_weights, *_ = shapes_clip.sample_images(images, rng)
    features = np.asarray(encode(pictures), np.float64)
    inputs = np.concatenate([features, np.ones((images, 1))], axis=1)
    # Weights first, embeddings after: the regression does not depend on the LLM's scale.
    gram = inputs.T @ inputs + ridge * np.eye(inputs.shape[1])
    to_words = np.linalg.solve(gram, inputs.T @ word_weights)
    word_ids = jnp.array(tokenizer.convert_tokens_to_ids(list(attributes.WORDS)))
    to_tokens = np.asarray(frame_tokens(llm.embed_tokens.embedding[...], word_ids, jnp.asarray(to_words, jnp.float32)))
    adapter = DenseAdapter(features.shape[1], to_tokens.shape[1], rngs=nnx.Rngs(0))
    adapter.kernel[...] = jnp.asarray(to_tokens[:-1])
    adapter.bias[...] = jnp.asarray(to_tokens[-1])
    return adapter
