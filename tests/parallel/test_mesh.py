"""Mesh shapes and their errors; several devices are forced in test_sharded_step."""

import itertools
import types

import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from revision_jax.parallel import mesh as meshes


def test_one_device_and_the_rest():
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert meshes.batch_sharding(mesh).spec == PartitionSpec(("data", "fsdp"))


@pytest.mark.parametrize("sizes", [(2, 1, 1), (1, 1, 3), (-1, 2, 1), (0, 1, 1)])
def test_sizes_that_do_not_fit_are_named(sizes):
    with pytest.raises(ValueError, match=rf"mesh.data={sizes[0]}, mesh.fsdp={sizes[1]}.*1 cpu device"):
        meshes.make_mesh(*sizes, devices=jax.devices("cpu")[:1])


def test_batch_must_split_evenly():
    class Four:
        shape = {"data": 2, "fsdp": 2, "tensor": 1}

    meshes.check_batch(Four, 8)
    with pytest.raises(ValueError, match=r"train.batch_size is 6; expected a multiple of 4"):
        meshes.check_batch(Four, 6, "train.batch_size")


def test_a_batch_of_any_mesh_splits_evenly():
    """So an evaluation's encoder takes whatever mesh `compile --program search` took, 3 devices too."""
    for data, fsdp in itertools.product(range(1, 13), (1, 2, 3)):
        shape = types.SimpleNamespace(shape={"data": data, "fsdp": fsdp, "tensor": 1})
        rows = meshes.round_up_rows(128, shape)
        meshes.check_batch(shape, rows)
        assert 128 <= rows < 128 + data * fsdp
