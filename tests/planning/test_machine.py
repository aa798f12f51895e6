"""Machines by name, and meshes over chips that are not there."""

import pytest

from revision_jax import config as configs
from revision_jax.parallel.topology import DCN_BYTES
from revision_jax.planning.machine import Machine, batch_parts, plan_mesh


def test_slices_and_gpus():
    pod = Machine.of_topology("v5p-128")
    assert (pod.chips, pod.hosts, pod.flops, pod.memory_gib) == (64, 16, 459e12, 95)
    assert pod.slow_bytes == pod.link_bytes
    assert Machine.of_topology("2xv5e-16").slow_bytes == DCN_BYTES
    node = Machine.of_gpus("8xH100")
    assert (node.chips, node.hosts, node.flops, node.slow_bytes) == (8, 1, 989e12, node.link_bytes)
    assert Machine.of_gpus("64xH200").hosts == 8 and Machine.of_gpus("64xH200").slow_bytes < node.link_bytes
    assert Machine.of_gpus("A100").chips == 1
    assert Machine.of_cpu(50.0, 16).flops == 50e9


@pytest.mark.parametrize(
    "make, argument, told",
    [
        (Machine.of_gpus, "8xB17", "--gpus is '8xB17'; expected a number and one of H100, H200, A100"),
        (Machine.of_gpus, "0xH100", "expected a number"),
        (Machine.of_topology, "v9-1", "unknown topology 'v9-1'"),
        (lambda value: Machine.of_cpu(value, 1), 0.0, "--cpu is 0; expected GFLOP/s above 0"),
    ],
)
def test_machines_that_there_are_not(make, argument, told):
    with pytest.raises(ValueError, match=told):
        make(argument)


def mesh(chips: str, rows: int, **axes) -> tuple[dict, int]:
    config = configs.load("configs/stage1.py", {f"mesh.{axis}": value for axis, value in axes.items()})
    made = plan_mesh(config, Machine.of_gpus(chips), rows)
    return dict(made.shape), batch_parts(made)


def test_a_batch_of_few_rows_uses_few_chips():
    assert mesh("64xH100", 128) == ({"data": 64, "fsdp": 1, "tensor": 1}, 64)
    assert mesh("64xH100", 32) == ({"data": 32, "fsdp": 1, "tensor": 1}, 32)
    assert mesh("64xH100", 8, fsdp=4) == ({"data": 2, "fsdp": 4, "tensor": 1}, 8)
    assert mesh("8xH100", 6, tensor=2) == ({"data": 2, "fsdp": 1, "tensor": 2}, 2)


def test_axes_that_do_not_fit():
    with pytest.raises(ValueError, match="do not fit the 8 chips of 8xH100; expected a product of 8"):
        mesh("8xH100", 8, data=3)
    with pytest.raises(ValueError, match=r"a batch of 6 rows cannot be split over mesh\.fsdp=4"):
        mesh("8xH100", 6, fsdp=4)
