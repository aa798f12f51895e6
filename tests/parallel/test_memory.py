"""Bytes a device, told in a table and checked."""

import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from revision_jax.parallel.memory import check_host, check_memory, device_limit, held, host_limit
from revision_jax.parallel.mesh import make_mesh
from revision_jax.units import GIB
from tests.forced_devices import run_python

MESH = {"data": 2, "fsdp": 1, "tensor": 1}


def test_only_a_devices_own_shards_count():
    mesh = jax.sharding.AbstractMesh((2, 4, 1), ("data", "fsdp", "tensor"))
    split = jax.sharding.NamedSharding(mesh, PartitionSpec("fsdp", None))
    tree = {"a": jax.ShapeDtypeStruct((8, 3), jnp.bfloat16, sharding=split)}
    assert held(tree) == 2 * 3 * 2
    assert held({"a": jnp.zeros((8, 3)), "b": jnp.zeros(5, jnp.int8)}) == 96 + 5


def test_the_table_has_every_part_and_the_sum():
    table = check_memory({"frozen weights": GIB, "optimizer": GIB // 2}, MESH, 2 * GIB)
    assert table.splitlines()[1].split() == ["frozen", "weights", "1.000"]
    assert table.splitlines()[-1].split() == ["together", "1.500", "of", "2.000"]
    assert check_memory({"frozen weights": GIB}, MESH, None).endswith("1.000")


def test_too_much_names_the_part_and_the_axis():
    with pytest.raises(
        ValueError, match=r"(?s)together.*of 2.000\nfrozen weights and the rest.*mesh.fsdp=1.*raise one"
    ):
        check_memory({"frozen weights": 3 * GIB, "optimizer": GIB}, MESH, 2 * GIB)


def test_a_cpu_does_not_tell_its_limit():
    assert make_mesh(devices=jax.devices("cpu")[:1]).size == 1
    if jax.default_backend() == "cpu":
        assert device_limit() is None


def test_what_a_host_cannot_hold_is_refused_with_a_table():
    assert GIB < host_limit() < 2**50
    check_host({"batches": GIB, "weights": 2 * GIB}, 4 * GIB)
    with pytest.raises(
        ValueError, match=r"batches +1\.000\nweights +4\.000\nTogether at least 5\.0 GiB; there are 4\.0"
    ):
        check_host({"batches": GIB, "weights": 4 * GIB}, 4 * GIB)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_kept_for_the_next_step():
    """Called first, as `train` does. Small allocations cut into what is kept: it grows for some calls, then stays."""
    code = """
import resource, sys
from revision_jax.parallel.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import jax

program = jax.jit(lambda x: (x @ x.T) @ x)
x = jax.numpy.ones((4096, 8))  # 64 MiB of temporary memory: 16,384 pages
faults = []
for _ in range(60):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(calls > 10000 for calls in faults[30:]))
"""
    given_back, kept = (int(run_python(code, 1, how)) for how in ("leave", "keep"))
    assert given_back == 30 and kept < 10, (kept, given_back)
