"""The mesh of devices: axes `data` (batch), `fsdp` (batch and weights) and `tensor` (inside a layer)."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # mesh axes a batch is split over


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, *, devices: Sequence | None = None) -> Mesh:
    """A mesh over `devices` (default: all); one axis may be -1, the rest of the devices.

    Raises:
      ValueError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) == 1:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = max(len(devices) // known, 1)
    if math.prod(sizes) != len(devices) or min(sizes) < 1:
        raise ValueError(
            f"mesh.data={data}, mesh.fsdp={fsdp}, mesh.tensor={tensor} do not fit {len(devices)} "
            f"{devices[0].platform} device(s); expected a product of {len(devices)}, at most one of them -1."
        )
    # `jax.make_mesh` makes Explicit axes by default since 0.10; these programs leave layouts to the compiler.
    return Mesh(np.asarray(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays `[B, ...]`: rows split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def check_batch(mesh: Mesh, batch_size: int, name: str = "the batch") -> None:
    """Raises ValueError, naming the batch's field, unless it splits evenly."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH)
    if batch_size % parts:
        raise ValueError(
            f"{name} is {batch_size}; expected a multiple of {parts} "
            f"(mesh.data {mesh.shape['data']} x mesh.fsdp {mesh.shape['fsdp']})."
        )
