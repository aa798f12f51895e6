import numpy as np
import pytest

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.policies import policy_of


def test_depths_and_their_windows():
    hierarchy = Hierarchy(window_s=10.0, num_frames=4)
    np.testing.assert_array_equal(policy_of(0).windows(hierarchy, 95.0), [[0.0, 95.0]])
    np.testing.assert_array_equal(policy_of(1).windows(hierarchy, 95.0), hierarchy.windows(95.0))
    with pytest.raises(ValueError, match="depth 2 does not exist"):
        policy_of(2)
