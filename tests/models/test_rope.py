"""Rotary frequencies against transformers' own, and the rotation's defining property."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import LlamaConfig as HFConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from revision_jax.models.rope import apply_rope, rope_frequencies, rope_tables

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize("theta", [1e4, 5e5])
@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 4.0}, LLAMA3])
def test_frequencies_equal_transformers(theta, scaling):
    hf = HFConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", **(scaling or {}), "rope_theta": theta},
    )
    expected = LlamaRotaryEmbedding(hf).inv_freq.numpy()
    np.testing.assert_allclose(rope_frequencies(32, theta, scaling), expected, rtol=1e-6)


def test_old_spelling_of_the_type_is_read():
    old = rope_frequencies(16, 1e4, {"type": "linear", "factor": 2.0})
    np.testing.assert_array_equal(old, rope_frequencies(16, 1e4, None) / 2)


def test_scores_depend_on_the_distance_alone():
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 16)) for i in range(2))
    frequencies = rope_frequencies(16, 1e4, None)
    at = lambda x, t: apply_rope(x, *rope_tables(jnp.array([[t]]), frequencies))
    np.testing.assert_allclose((at(q, 7) * at(k, 3)).sum(), (at(q, 107) * at(k, 103)).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    "scaling, message",
    [({"rope_type": "yarn", "factor": 2.0}, "yarn"), ({"rope_type": "llama3", "factor": 8.0}, "low_freq")],
)
def test_unknown_or_incomplete_scaling_raises(scaling, message):
    with pytest.raises(ValueError, match=message):
        rope_frequencies(16, 1e4, scaling)
