"""Fits the tiny projector: CLIP features to the mixtures of word embeddings that the tiny LLM reads.

The published projector is trained on image captions (stage "align"). Here the words of every frame are known, so
a ridge regression from features to `lookup_step.frame_tokens` gives the projector in closed form.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerBase

from revision_jax.models.adapter import DenseAdapter
from revision_jax.models.llama import Llama
from revision_jax.pretrain import attributes, shapes_clip
from revision_jax.pretrain.lookup_step import frame_tokens

RIDGE = 1.0


def fit_projector(
    encode: Callable[[np.ndarray], np.ndarray], llm: Llama, tokenizer: PreTrainedTokenizerBase, *, images: int = 20_000
) -> DenseAdapter:
    """The dense adapter `D -> H` that maps features of random frames to their words.

    Args:
      encode: pictures `[n, SIZE, SIZE, 3]` uint8 -> features `[n, D]`.
      images: number of random frames.
    """
    rng = np.random.default_rng([2, 31])
    pictures, word_weights, *_ = shapes_clip.sample_images(images, rng)
    features = np.asarray(encode(pictures), np.float64)
    inputs = np.concatenate([features, np.ones((images, 1))], axis=1)
    # Weights first, embeddings after: the regression does not depend on the LLM's scale.
    gram = inputs.T @ inputs + RIDGE * np.eye(inputs.shape[1])
    to_words = np.linalg.solve(gram, inputs.T @ word_weights)
    word_ids = jnp.array(tokenizer.convert_tokens_to_ids(list(attributes.WORDS)))
    to_tokens = np.asarray(frame_tokens(llm.embed_tokens.embedding[...], word_ids, jnp.asarray(to_words, jnp.float32)))
    adapter = DenseAdapter(features.shape[1], to_tokens.shape[1], rngs=nnx.Rngs(0))
    adapter.kernel[...] = jnp.asarray(to_tokens[:-1])
    adapter.bias[...] = jnp.asarray(to_tokens[-1])
    return adapter
