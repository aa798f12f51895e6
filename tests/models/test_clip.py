"""CLIP's shapes, causality and training; parity with PyTorch is in tests/interop/test_clip.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from revision_jax.models.clip import CLIP, CLIPConfig, CLIPTextConfig, CLIPVisionConfig

VISION = CLIPVisionConfig(32, 48, 2, 4, image_size=16, patch_size=8)
TEXT = CLIPTextConfig(16, 24, 2, 2, vocab_size=20, max_position_embeddings=8, eos_token_id=3)
CONFIG = CLIPConfig(VISION, TEXT, 12)
TOKENS = jnp.array([[1, 5, 6, 3, 0, 0], [1, 7, 3, 0, 0, 0]])


@pytest.fixture(scope="module")
def model(draw):
    return draw(lambda: CLIP(CONFIG, rngs=nnx.Rngs(0)))


def test_text_after_the_end_is_not_seen(model):
    encode = jax.jit(model.encode_text)
    features, holistic = encode(TOKENS)
    assert features.shape == (2, 6, 16) and holistic.shape == (2, 12)
    other_features, other_holistic = encode(TOKENS.at[:, 4:].set(9))
    np.testing.assert_array_equal(holistic, other_holistic)
    np.testing.assert_array_equal(features[:, :4], other_features[:, :4])


def test_patches_keep_their_place(model):
    """Two images of the same patches in another order differ: positions count."""
    image = jax.random.normal(jax.random.key(0), (1, 16, 16, 3))
    swapped = jnp.concatenate([image[:, 8:], image[:, :8]], axis=1)
    one, other = jax.jit(model.encode_image)(jnp.concatenate([image, swapped]))
    assert float(jnp.abs(one - other).max()) > 1e-4


def test_trains_from_scratch():
    graphdef, params = nnx.split(CLIP(CONFIG, rngs=nnx.Rngs(0)))
    pixels = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))

    def loss(params):
        model = nnx.merge(graphdef, params)
        unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        image, text = unit(model.encode_image(pixels)), unit(model.encode_text(TOKENS)[1])
        scores = jnp.exp(model.logit_scale[...]) * image @ text.T
        return -(jnp.diag(jax.nn.log_softmax(scores)) + jnp.diag(jax.nn.log_softmax(scores.T))).mean()

    @jax.jit
    def step(params):
        value, gradient = jax.value_and_grad(loss)(params)
        return value, gradient, jax.tree.map(lambda p, g: p - 0.02 * g, params, gradient)

    first, gradient, params = step(params)
    for path, leaf in nnx.to_flat_state(gradient):
        # A bias on the keys moves all scores of a query alike: softmax does not see it.
        if path[-2:] != ("k_proj", "bias"):
            assert np.abs(leaf[...]).max() > 0, path
    for _ in range(20):
        value, _, params = step(params)
    assert value < first / 2


def test_bfloat16_is_near_float32(model, draw):
    half = draw(lambda: CLIP(CONFIG, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    pixels = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    found, wanted = jax.jit(half.encode_image)(pixels), jax.jit(model.encode_image)(pixels)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, atol=0.05 * float(jnp.abs(wanted).max()))


def test_wrong_inputs_and_configs_raise(model):
    with pytest.raises(ValueError, match=r"expected \[batch, 16, 16, 3\]"):
        model.encode_image(jnp.ones((1, 24, 24, 3)))
    with pytest.raises(ValueError, match="at most 8"):
        model.encode_text(jnp.ones((1, 9), int))
    with pytest.raises(ValueError, match="hidden_act"):
        CLIPVisionConfig(32, 48, 2, 4, hidden_act="relu", image_size=16, patch_size=8)
    with pytest.raises(ValueError, match="patch_size 32 must be 1 to 20"):
        CLIPVisionConfig(32, 48, 2, 4, image_size=20, patch_size=32)
    with pytest.raises(ValueError, match="multiple of num_heads"):
        CLIPTextConfig(16, 24, 2, 3, vocab_size=20)
