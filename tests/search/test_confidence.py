import jax.numpy as jnp
import numpy as np
import pytest

from revision_jax.search.confidence import EPSILON, inverse_mean_entropy, token_entropy


def test_entropy_of_known_distributions():
    uniform, certain = jnp.zeros(32), jnp.zeros(32).at[3].set(200.0)
    assert token_entropy(uniform) == pytest.approx(np.log(32), rel=1e-5)
    assert token_entropy(certain) == pytest.approx(0.0, abs=1e-6)


def test_confidence_is_the_inverse_of_the_mean_and_bounded():
    confidence = inverse_mean_entropy(jnp.array([6.0, 0.0, 0.0]), jnp.array([3, 3, 0]))
    np.testing.assert_allclose(confidence, [0.5, 1 / EPSILON, 0.0], rtol=1e-6)
