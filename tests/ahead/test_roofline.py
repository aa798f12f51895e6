"""The roofline of a step: each resource at its peak."""

import pytest

from revision_jax.ahead.roofline import roofline
from revision_jax.parallel.topology import Topology


def test_between_slices_gradients_take_the_slow_network():
    sent = {"all-reduce": {"bytes": 3.1e9}, "all-gather": {"bytes": 2e9}}
    report = {"parts_gib": {"activations and temporaries": 0.0}, "collectives": sent}
    facts = {"flops": 1e12, "executed": 1e12, "weight_bytes": 0.0}
    seconds = [roofline(Topology.parse(name), facts, report)["network_s"] for name in ("v5e-16", "2xv5e-16")]
    assert seconds == pytest.approx([0.041, 2.01])  # 200 GB/s inside a slice, 3.1 GB/s a chip between them
