import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from fake_search import make_settings

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.levels.upper import UpperLevel
from revision_jax.search.plan import plan_search
from revision_jax.search.policies import find_policy, policy_names
from revision_jax.search.policies.bottom_up import BottomUp
from revision_jax.search.policies.cascade import Cascade
from revision_jax.search.policies.top_down import TopDown
from revision_jax.search.policies.top_down_rescaled import TopDownRescaled

HIERARCHY = Hierarchy(32.0, 16, 0.5, 0.5, levels=(12, 4))
LEVELS = tuple(UpperLevel(size, None, 0) for size in HIERARCHY.levels)


def test_top_down_keeps_shares_of_all_windows():
    policy = TopDown((0.8, 0.5))
    assert policy.counts(11, 7).tolist() == [11, 9, 4]
    assert TopDown((0.5,)).counts(11, 7).tolist() == [11, 4]
    scores = jnp.array([[0.5, -jnp.inf, 2.0, 1.0]])
    np.testing.assert_array_equal(policy.survivors(scores, scores > -9, 2), [[False, False, True, True]])
    confidence = jnp.array([[[3.0], [0.0], [2.0], [1.0]]])
    np.testing.assert_array_equal(policy.rescale(confidence, scores), confidence)
    squared = TopDownRescaled((0.5,), power=2.0)
    assert squared.counts(11, 7).tolist() == [11, 4]
    # The last one was not shown: it counts as the least likely of the others.
    found = squared.rescale(confidence, jnp.log(jnp.array([[2.0, 1.0, 0.5, 0.0]])))
    np.testing.assert_allclose(found, [[[12.0], [0.0], [0.5], [0.25]]], rtol=1e-6)


def test_bottom_up_asks_everything_and_rescales():
    policy = BottomUp(levels=2, power=0.5)
    assert policy.counts(11, 7).tolist() == [11, 11, 7]
    shown = jnp.array([[True, True, False, True]])
    np.testing.assert_array_equal(policy.survivors(jnp.zeros((1, 4)), shown, 1), shown)
    scores = jnp.log(jnp.array([[4.0, 0.25, 1.0, 0.0]]))
    rescaled = policy.rescale(jnp.array([[[3.0, 6.0], [4.0, 8.0], [0.0, 0.0], [7.0, 1.0]]]), scores)
    np.testing.assert_allclose(rescaled, [[[6.0, 12.0], [2.0, 4.0], [0.0, 0.0], [3.5, 0.5]]], rtol=1e-6)


def test_a_cascade_shows_the_most_similar_windows_and_no_level_more():
    policy = Cascade(0.4, (0.8, 0.5), 0.5)
    assert policy.counts(11, 7).tolist() == [5, 5, 4] and Cascade(0.4, (0.2,), 0.5).counts(11, 7).tolist() == [5, 2]
    assert Cascade(1.0, (0.8, 0.5), 0.5).counts(11, 7).tolist() == TopDown((0.8, 0.5)).counts(11, 7).tolist()
    windows = jnp.array([[True, True, True, False]])
    shown = policy.first_shown(windows, jnp.array([[0.1, 0.4, -0.2, 0.9]]), 2)
    np.testing.assert_array_equal(shown, [[True, True, False, False]])


def test_programs_do_not_see_what_only_counts_reads():
    assert (
        Cascade(0.4, (0.8, 0.5), 0.5).of_program() == Cascade(0.1, (0.2,), 0.5).of_program() == Cascade(None, None, 0.5)
    )
    assert TopDownRescaled((0.5,), 2.0).of_program() == TopDownRescaled(None, 2.0)
    assert BottomUp(2, 0.5).of_program() == BottomUp(2, 0.5)
    with pytest.raises(TypeError):  # told, where a program would use it all the same
        TopDown((0.5,)).of_program().counts(11, 7)


def test_every_file_is_a_policy_that_can_be_planned():
    assert set(policy_names()) >= {
        "top_down", "top_down_rescaled", "bottom_up", "fused", "cascade", "retrieve_then_ground"
    }  # fmt: skip
    for name in policy_names():
        kind = find_policy(name)
        deepest = HIERARCHY.max_depth if kind.most_depth is None else kind.most_depth
        for depth in range(kind.least_depth, deepest + 1):
            plan = plan_search(LEVELS, HIERARCHY, make_settings(), depth, name)
            assert len(plan.levels) == max(depth - 1, 0)
            if plan.policy is None:
                assert name == "top_down" and depth < 2  # nothing ranks windows: all are asked
            else:
                assert isinstance(plan.policy, kind) and len(plan.policy.counts(20, 20)) == max(depth, 1)
        for depth in {kind.least_depth - 1, deepest + 1} - {-1, HIERARCHY.max_depth + 1}:
            with pytest.raises(ValueError, match=f"search.policy '{name}' does not search at depth {depth}; expected"):
                plan_search(LEVELS, HIERARCHY, make_settings(), depth, name)


def test_a_policy_is_one_new_file(tmp_path, monkeypatch):
    from revision_jax.search import policies

    monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(tmp_path)])
    source = (
        "import dataclasses\n"
        "from revision_jax.search.policy import Policy\n\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Everything(Policy):\n"
        "    name = 'everything'\n"
    )
    (tmp_path / "everything.py").write_text(source)
    assert "everything" in policy_names() and find_policy("everything").least_depth == 2
    (tmp_path / "misnamed.py").write_text(source)
    with pytest.raises(TypeError, match="expected one policy, whose name is 'misnamed'"):
        find_policy("misnamed")


def test_names_are_known_without_jax():
    code = (
        "import sys; from revision_jax.search.policies import policy_names; policy_names(); print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_policy_is_named():
    with pytest.raises(ValueError, match=r"search.policy is 'sideways'; expected one of .*top_down"):
        find_policy("sideways")
    with pytest.raises(ValueError, match=r"search.policy is 'sideways'; expected one of .*top_down"):
        make_settings(policy="sideways")
