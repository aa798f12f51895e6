"""One table from logical axes to mesh axes, and the checks at its door."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from revision_jax.parallel.mesh import AXES, make_mesh
from revision_jax.parallel.rules import RULES, partition_spec, sharding_for


class Mesh:
    shape = {"data": 2, "fsdp": 4, "tensor": 2}


def test_rules_name_mesh_axes():
    assert {axis for axis in RULES.values() if axis} <= set(AXES)


def test_kernel_and_lora():
    spec = partition_spec("k", (3, 8, 6), ("layers", "embed", "mlp"), Mesh)
    assert spec == PartitionSpec(None, "fsdp", "tensor")
    spec = partition_spec("a", (3, 8, 5), ("layers", "lora_in", "lora"), Mesh)
    assert spec == PartitionSpec(None, None, None)


@pytest.mark.parametrize(
    "shape, axes, message",
    [
        ((8, 6), ("embed",), "one logical axis .* a dimension"),
        ((8, 6), None, "one logical axis .* a dimension"),
        ((8, 6), ("embed", "mpl"), r"no rule for \['mpl'\]"),
        ((8, 8), ("heads", "mlp"), "over the same mesh axis"),
        ((6, 6), ("embed", "mlp"), "'embed' of 6 cannot be split over mesh.fsdp=4"),
    ],
)
def test_errors_name_the_parameter(shape, axes, message):
    with pytest.raises(ValueError, match=f"parameter llm/x of shape .*{message}"):
        partition_spec("llm/x", shape, axes, Mesh)


def test_sharding_reads_the_parameters_own_axes():
    mesh = make_mesh(devices=jax.devices()[:1])
    param = nnx.Param(jnp.zeros((4, 2)), axes=("embed", None))
    assert sharding_for("p", param, mesh).spec == PartitionSpec("fsdp", None)
    with pytest.raises(ValueError, match="parameter p"):
        sharding_for("p", nnx.Param(jnp.zeros(2)), mesh)
