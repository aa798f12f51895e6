import jax.numpy as jnp
import numpy as np
import pytest

from revision_jax.search.policies import BottomUp, TopDown, check_policy


def test_top_down_keeps_shares_of_all_windows():
    policy = TopDown((0.8, 0.5))
    assert policy.counts(11, 7).tolist() == [11, 9, 4]
    assert TopDown((0.5,)).counts(11, 7).tolist() == [11, 4]
    scores = jnp.array([[0.5, -jnp.inf, 2.0, 1.0]])
    np.testing.assert_array_equal(policy.survivors(scores, scores > -9, 2), [[False, False, True, True]])
    confidence = jnp.array([[[3.0], [0.0], [2.0], [1.0]]])
    np.testing.assert_array_equal(policy.rescale(confidence, scores), confidence)
    squared = TopDown((0.5,), power=2.0).rescale(confidence, jnp.log(jnp.array([[2.0, 1.0, 0.5, 0.0]])))
    np.testing.assert_allclose(squared, [[[12.0], [0.0], [0.5], [1.0]]], rtol=1e-6)


def test_bottom_up_asks_everything_and_rescales():
    policy = BottomUp(levels=2, power=0.5)
    assert policy.counts(11, 7).tolist() == [11, 11, 7]
    shown = jnp.array([[True, True, False, True]])
    np.testing.assert_array_equal(policy.survivors(jnp.zeros((1, 4)), shown, 1), shown)
    scores = jnp.log(jnp.array([[4.0, 0.25, 1.0, 0.0]]))
    rescaled = policy.rescale(jnp.array([[[3.0, 6.0], [4.0, 8.0], [0.0, 0.0], [7.0, 1.0]]]), scores)
    np.testing.assert_allclose(rescaled, [[[6.0, 12.0], [2.0, 4.0], [0.0, 0.0], [7.0, 1.0]]], rtol=1e-6)


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match=r"search.policy is 'sideways'; expected one of \('top_down'"):
        check_policy("sideways")
