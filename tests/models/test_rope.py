"""Rotary frequencies against transformers' own, and the rotation's defining property."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import LlamaConfig as HFConfig

from revision_jax.models.rope import apply_rope, make_rope, rope_tables

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
KINDS = [
    None,
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 4.0},
    LLAMA3,
    YARN,
    YARN | {"mscale": 2.0},
    YARN | {"mscale": 2.0, "mscale_all_dim": 0.5, "truncate": False, "beta_fast": 16, "beta_slow": 2},
    YARN | {"attention_factor": 1.5, "original_max_position_embeddings": 5},
]


@pytest.mark.parametrize("theta", [1e4, 5e5])
@pytest.mark.parametrize("scaling", KINDS)
def test_frequencies_and_attention_factor_equal_transformers(torch, theta, scaling):
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding  # imports PyTorch

    hf = HFConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", **(scaling or {}), "rope_theta": theta},
    )
    theirs, ours = LlamaRotaryEmbedding(hf), make_rope(32, theta, scaling)
    np.testing.assert_allclose(ours.frequencies, theirs.inv_freq.numpy(), rtol=2e-6)
    assert ours.factor == pytest.approx(theirs.attention_scaling)
    tables = rope_tables(jnp.arange(4)[None], ours)
    np.testing.assert_allclose(jnp.hypot(*tables), ours.factor, rtol=1e-5)


def test_old_spelling_of_the_type_is_read():
    old = make_rope(16, 1e4, {"type": "linear", "factor": 2.0}).frequencies
    np.testing.assert_array_equal(old, make_rope(16, 1e4, None).frequencies / 2)


def test_scores_depend_on_the_distance_alone():
    q, k = (jax.random.normal(jax.random.key(i), (1, 1, 1, 16)) for i in range(2))
    rope = make_rope(16, 1e4, None)
    at = lambda x, t: apply_rope(x, *rope_tables(jnp.array([[t]]), rope))
    np.testing.assert_allclose((at(q, 7) * at(k, 3)).sum(), (at(q, 107) * at(k, 103)).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    "scaling, message",
    [({"rope_type": "yarn", "factor": 2.0}, "original_max"), ({"rope_type": "llama3", "factor": 8.0}, "low_freq")],
)
def test_unknown_or_incomplete_scaling_raises(scaling, message):
    with pytest.raises(ValueError, match=message):
        make_rope(16, 1e4, scaling)
