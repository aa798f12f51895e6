"""Environments of launchers, emulated."""

import pytest

from revision_jax.parallel.clusters import Cluster, expand_nodes, find_cluster

SLURM = {
    "SLURM_JOB_ID": "70000",
    "SLURM_PROCID": "2",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NODELIST": "gpu[08-09],fat1",
}
GKE = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "3"}
SLICES = GKE | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "s0:8080"}
PLAIN = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        (PLAIN, Cluster("plain", "h:1", 2, 1)),
        (PLAIN | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (SLURM, Cluster("slurm", f"gpu08:{2**15 + 70000 % 2**14}", 3, 2, ("gpu08", "gpu09", "fat1"))),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        # A batch script, or a shell of salloc: the job has three tasks, of which srun has started none.
        ({key: value for key, value in SLURM.items() if key != "SLURM_STEP_ID"}, None),
        (SLURM | {"SLURM_STEP_ID": "4294967291"}, None),
        (SLURM | PLAIN, Cluster("plain", "h:1", 2, 1)),
        (GKE, Cluster("gke", "a:8476", 4, 3, ("a", "b", "c", "d"))),
        (SLICES, Cluster("gke", "s0:8476", 8, 7)),
        (GKE | {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"REVISION_JAX_CLUSTER": "tpu_vm"}, Cluster("tpu_vm")),
    ],
)
def test_what_the_environment_names(environment, expected):
    assert find_cluster(environment) == expected


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"JAX_COORDINATOR_ADDRESS": "h:1"}, "JAX_NUM_PROCESSES, JAX_PROCESS_ID is not"),
        (PLAIN | {"JAX_PROCESS_ID": "2"}, "JAX_PROCESS_ID is 2; expected 0 to 1"),
        (PLAIN | {"JAX_NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'; expected a whole number from 1 on"),
    ],
)
def test_contradictions_are_named(environment, message):
    with pytest.raises(ValueError, match=message):
        find_cluster(environment)


@pytest.mark.parametrize(
    "text, nodes",
    [
        ("one", ["one"]),
        ("a,b", ["a", "b"]),
        ("gpu[01-03,7],login", ["gpu01", "gpu02", "gpu03", "gpu7", "login"]),
        ("r[1-2]n", ["r1n", "r2n"]),
    ],
)
def test_lists_of_nodes(text, nodes):
    assert expand_nodes(text) == nodes


def test_processes_go_by_their_hosts():
    assert Cluster("slurm", "a:1", 2, 0, ("a", "b")).name(1) == "process 1 (b)"
    assert Cluster("plain", "a:1", 2, 0).name(1) == "process 1"
