"""Several hosts: joining them."""

import os

import jax


def initialize(several: bool = False) -> None:
    """Joins the processes of a cluster when the environment names one (`JAX_COORDINATOR_ADDRESS`).

    How many there are and which this is, jax finds out from the cluster; where it cannot, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID` say so.

    Args:
      several: whether the caller divides its work over processes.

    Raises:
      NotImplementedError: there is more than one process, and the caller does not. Each would read the same batches,
        so a run would silently train on copies.
    """
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        given = {"num_processes": "JAX_NUM_PROCESSES", "process_id": "JAX_PROCESS_ID"}
        jax.distributed.initialize(**{name: int(os.environ[key]) for name, key in given.items() if key in os.environ})
    if jax.process_count() > 1 and not several:
        raise NotImplementedError(
            f"{jax.process_count()} processes were started; the input pipeline feeds one process with any "
            "number of devices. Start a single process."
        )
