"""How much of a device's memory arrays take, and whether they fit."""

import ctypes
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from revision_jax.units import GIB

# Options of mallopt(3): no allocation gets pages of its own, one arena, which is given back above 2 GiB and grows by 64
# MiB. What has pages of its own, or lies in a thread's arena, is given back when it is freed, whatever the threshold.
_KEEP = {-4: 0, -8: 1, -1: 2**31 - 1, -2: 64 * 2**20}

_ACCELERATORS = ("nvidia[0-9]*", "accel[0-9]*", "vfio/[0-9]*")  # device files of GPUs and TPUs


def held(tree: Any) -> int:
    """Bytes that arrays (or shapes with shardings) take on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def device_limit() -> int | None:
    """Bytes of this host's first device; None where it does not tell (CPU)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def host_limit() -> int:
    """Bytes of memory that this process may have: of the machine, or less in a container (cgroup 2)."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no cgroup, or "max"
        return machine


def keep_freed_memory() -> None:
    """Tells glibc's malloc to keep what is freed, up to 2 GiB, for the next allocation; on hosts of CPUs alone.

    XLA takes the temporary memory of a program from malloc at every call. Given back to the system each time, its pages
    are faulted in again: a third of a small step's CPU time. It is called before JAX starts threads: a thread stays in
    the arena of its first allocation, and empty arenas but the main one are always given back.
    """
    if os.environ.get("JAX_PLATFORMS") != "cpu" and any(next(Path("/dev").glob(name), None) for name in _ACCELERATORS):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for option, value in _KEEP.items():
        mallopt(option, value)


def check_host(parts: Mapping[str, int], limit: int) -> None:
    """Compares what a run must hold in this host's memory with what there is, before any of it is made.

    Args:
      parts: name -> bytes, of each no more than is needed for sure.
      limit: bytes, see `host_limit`.

    Raises:
      ValueError: it cannot fit; with a table of the parts.
    """
    total = sum(parts.values())
    if total > limit:
        lines = [f"{name:20}  {size / GIB:12.3f}" for name, size in parts.items()]
        raise ValueError(
            "\n".join([f"{'this host holds':20}  {'GiB':>12}", *lines])
            + f"\nTogether at least {total / GIB:.1f} GiB; there are {limit / GIB:.1f} GiB. Nothing was made: take "
            f"less of {max(parts, key=parts.get)}, or a host with more memory."
        )


def check_memory(parts: Mapping[str, int], mesh: Mapping[str, int], limit: int | None) -> str:
    """A table of what a device holds during the whole run; `revision_jax.compile` adds what a step needs.

    Args:
      parts: name -> bytes a device.
      mesh: axis -> devices.
      limit: bytes of a device, None where it is not known.

    Raises:
      ValueError: more than a device has; names the part that is the largest and the mesh that splits it.
    """
    total = sum(parts.values())
    lines = [f"{'a device holds':20}  {'GiB':>8}", *(f"{name:20}  {size / GIB:8.3f}" for name, size in parts.items())]
    lines.append(f"{'together':20}  {total / GIB:8.3f}" + (f" of {limit / GIB:.3f}" if limit else ""))
    table = "\n".join(lines)
    if limit and total > limit:
        largest = max(parts, key=parts.get)
        raise ValueError(
            f"{table}\n{largest} and the rest do not fit a device with mesh.fsdp={mesh['fsdp']}, "
            f"mesh.tensor={mesh['tensor']}; raise one of them, on more devices, or take devices with more memory."
        )
    return table
