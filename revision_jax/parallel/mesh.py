"""The mesh of devices: axes `data` (batch), `fsdp` (batch and weights) and `tensor` (inside a layer)."""

import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
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
    return Mesh(_arranged(devices, sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arranged(devices: list, sizes: list[int]) -> np.ndarray:
    """Devices as an array of the mesh's shape: on TPUs neighbours in an axis are neighbours by wire.

    Between slices only the first axis that has room is split: what crosses the slow network must be rare.
    """
    if devices[0].platform != "tpu" or len(devices) == 1:
        return np.asarray(devices).reshape(sizes)
    slices = len({getattr(device, "slice_index", 0) for device in devices})  # a lone slice has no number
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if sizes[0] % slices:
        raise ValueError(f"mesh.data is {sizes[0]}; expected a multiple of the {slices} slices, which split it.")
    inner, outer = [sizes[0] // slices, *sizes[1:]], [slices, 1, 1]
    return mesh_utils.create_hybrid_device_mesh(inner, outer, devices, allow_split_physical_axes=True)


def local_mesh(mesh: Mesh) -> Mesh:
    """This host's devices alone, all on the `data` axis, for work that each host does by itself; of one host all."""
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    return mesh if len(own) == mesh.size else make_mesh(devices=own)


def put(array: jax.Array | np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array in its place, its own shards only where other hosts hold the rest; each host gives the whole."""
    if sharding.is_fully_addressable or getattr(array, "sharding", None) == sharding:
        return jax.device_put(array, sharding)
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def host_shard(mesh: Mesh, batch_size: int) -> tuple[int, int]:
    """(index, count): the equal part of a batch's rows that this host reads.

    Hosts that hold the same rows, because a layer is split between them, read the same part.
    """
    own, parts = _row_parts(mesh, batch_size)
    return parts.index(own), len(parts)


def host_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this host reads, in the order of its part."""
    return np.asarray(_row_parts(mesh, batch_size)[0])


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A global batch from the equal parts that the hosts read; arrays `[rows of this host, ...]`."""
    sharding = batch_sharding(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(dict(batch), sharding)
    batch_size = len(next(iter(batch.values()))) * host_shard(mesh, round_up_rows(1, mesh))[1]
    rows, numbers = np.asarray(_row_parts(mesh, batch_size)[0]), np.arange(batch_size)

    def assemble(local: np.ndarray) -> jax.Array:
        own = lambda index: local[np.searchsorted(rows, numbers[index[0]])]
        return jax.make_array_from_callback((batch_size, *local.shape[1:]), sharding, own)

    return {name: assemble(local) for name, local in batch.items()}


def _row_parts(mesh: Mesh, batch_size: int) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """The rows on this host's devices, and those of all hosts in the order of their first rows."""
    held: dict[int, set[int]] = {}
    for device, index in batch_sharding(mesh).devices_indices_map((batch_size,)).items():
        held.setdefault(device.process_index, set()).update(range(batch_size)[index[0]])
    parts = {process: tuple(sorted(rows)) for process, rows in held.items()}
    return parts[jax.process_index()], sorted(set(parts.values()))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Arrays `[B, ...]`: rows split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def round_up_rows(count: int, mesh: Mesh) -> int:
    """The least number of rows, at least `count`, that a batch on this mesh can have."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH)
    return -(-count // parts) * parts


def check_batch(mesh: Mesh, batch_size: int, name: str = "the batch", accumulate: int = 1) -> None:
    """Raises ValueError, naming the batch's field, unless it splits evenly, in each of `accumulate` parts."""
    parts = math.prod(mesh.shape[axis] for axis in BATCH) * accumulate
    if batch_size % parts:
        times = f" x train.accumulate {accumulate}" if accumulate > 1 else ""
        raise ValueError(
            f"{name} is {batch_size}; expected a multiple of {parts} "
            f"(mesh.data {mesh.shape['data']} x mesh.fsdp {mesh.shape['fsdp']}{times})."
        )
