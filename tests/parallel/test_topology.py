"""Names of TPU slices."""

import sys

import pytest

from revision_jax.parallel.topology import CHIPS, Topology


@pytest.mark.parametrize(
    "name, bounds, slices, chips",
    [
        ("v5e-16", (4, 4), 1, 16),
        ("v5p-16", (2, 2, 2), 1, 8),  # the cloud counts TensorCores here
        ("v4-8", (2, 2, 1), 1, 4),
        ("v6e-256", (16, 16), 1, 256),
        ("2xv5e-16", (4, 4), 2, 32),
    ],
)
def test_names_say_chips_or_cores(name, bounds, slices, chips):
    topology = Topology.parse(name)
    assert (topology.bounds, topology.slices, topology.num_chips) == (bounds, slices, chips)


def test_every_known_slice_has_as_many_chips_as_its_name_says():
    for generation, chip in CHIPS.items():
        for size in chip.bounds:
            assert Topology.parse(f"{generation}-{size}").num_chips == size // chip.cores


@pytest.mark.parametrize("name", ["v5e-17", "v3-8", "v5e", "0xv5e-16", "h100-8", ""])
def test_unknown_names_list_the_known(name):
    with pytest.raises(ValueError, match=r"unknown topology.*v5e-\{1,4,8,16"):
        Topology.parse(name)


def test_without_libtpu_it_says_how_to_get_it(monkeypatch):
    from jax.experimental import topologies

    def refuse(**_):
        raise RuntimeError("no libtpu")

    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(RuntimeError, match=r"cannot describe v5e-16: no libtpu\nCompiling for TPUs needs libtpu"):
        Topology.parse("v5e-16").devices()
    assert "libtpu" not in sys.modules
