import jax.numpy as jnp
import numpy as np
import pytest

from revision_jax.search.answers.confidence import EPSILON, confidence, token_entropy, uncertainty
from revision_jax.search.rules import CONFIDENCES


def test_entropy_of_known_distributions():
    uniform, certain = jnp.zeros(32), jnp.zeros(32).at[3].set(200.0)
    assert token_entropy(uniform) == pytest.approx(np.log(32), rel=1e-5)
    assert token_entropy(certain) == pytest.approx(0.0, abs=1e-6)


ENTROPIES = jnp.array([[1.0, 4.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
LIKELIHOOD, LENGTH = jnp.log(jnp.array([0.2, 1.0, 0.9])), jnp.array([3, 3, 0])


@pytest.mark.parametrize("kind, first", [
    ("inverse_mean_entropy", 0.5), ("inverse_max_entropy", 0.25), ("sequence_likelihood", 0.2),
])  # fmt: skip
def test_the_kinds_and_their_bounds(kind, first):
    certain = 1.0 if kind == "sequence_likelihood" else 1 / EPSILON
    found = confidence(kind, ENTROPIES, LIKELIHOOD, LENGTH)
    np.testing.assert_allclose(found, [first, certain, 0.0], rtol=1e-6)


def test_uncertainty_is_in_nats_and_turns_the_order_around():
    values = {"inverse_mean_entropy": 2.0, "inverse_max_entropy": 4.0, "sequence_likelihood": -np.log(0.2)}
    for kind in CONFIDENCES:
        sure = np.asarray(confidence(kind, ENTROPIES, LIKELIHOOD, LENGTH))[:2]
        np.testing.assert_allclose(uncertainty(kind, sure), [values[kind], 0.0], atol=2e-6)
        assert (np.diff(uncertainty(kind, np.array([0.1, 0.5, 0.9, 3.0]))) <= 0).all()
    with pytest.raises(ValueError, match=r"search.confidence is 'entropy'; expected one of"):
        confidence("entropy", ENTROPIES, LIKELIHOOD, LENGTH)
