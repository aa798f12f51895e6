"""What arrays take of a device, and whether that is too much."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from revision_jax.units import GIB


def held(tree: Any) -> int:
    """Bytes a device of arrays in their places (or of shapes with shardings)."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def device_limit() -> int | None:
    """Bytes of this host's first device; None where it does not tell (CPU)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def check_memory(parts: Mapping[str, int], mesh: Mapping[str, int], limit: int | None) -> str:
    """A table of what lies on a device from start to end; what a step needs besides, `revision_jax.compile` knows.

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
