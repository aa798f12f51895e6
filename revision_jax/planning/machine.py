"""The machine that a plan is for: chips with their published figures, and a mesh over them that nothing runs on."""

import dataclasses
import math
import re

from jax.sharding import AbstractMesh, AxisType
from ml_collections import ConfigDict

from revision_jax.parallel.mesh import AXES, BATCH
from revision_jax.parallel.topology import DCN_BYTES, Topology
from revision_jax.training.flops import peak_flops

# GiB, bytes a second from memory, bytes a second to a neighbour (NVLink, one way); NVIDIA's data sheets.
GPUS = {
    "H100": ("NVIDIA H100", 80, 3.35e12, 450e9),
    "H200": ("NVIDIA H200", 141, 4.8e12, 450e9),
    "A100": ("NVIDIA A100", 80, 2.0e12, 300e9),
}
A_HOST = 8  # GPUs of a host
CPU_BYTES = 20e9  # a second from a CPU's memory (assumed; it decides nothing where FLOPs are measured)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Equal chips.

    Attributes:
      flops: a second and chip; hbm_bytes, link_bytes: a second, from memory and to other chips.
      slow_bytes: the same between hosts of GPUs or slices of TPUs; equal to `link_bytes` where there is nothing slower.
      memory_gib: of a chip. hosts: machines that hold the chips.
    """

    name: str
    chips: int
    hosts: int
    flops: float
    memory_gib: float
    hbm_bytes: float
    link_bytes: float
    slow_bytes: float

    @classmethod
    def of_topology(cls, name: str) -> "Machine":
        """A TPU slice, or several; ValueError for an unknown name."""
        topology = Topology.parse(name)
        chip, chips = topology.chip, topology.num_chips
        slow = DCN_BYTES if topology.slices > 1 else chip.ici_bytes
        hosts = -(-chips // 4)
        return cls(name, chips, hosts, chip.flops, chip.hbm_gib, chip.hbm_bytes, chip.ici_bytes, slow)

    @classmethod
    def of_gpus(cls, name: str) -> "Machine":
        """`8xH100`; ValueError for another form, or a GPU that is not in the table."""
        match = re.fullmatch(r"(?:(\d+)x)?(\w+)", name)
        count, kind = (int(match[1] or 1), match[2]) if match else (0, "")
        if kind not in GPUS or count < 1:
            raise ValueError(f"--gpus is {name!r}; expected a number and one of {', '.join(GPUS)}, as 8xH100.")
        device, memory_gib, hbm_bytes, link_bytes = GPUS[kind]
        hosts = -(-count // A_HOST)
        slow = 50e9 if hosts > 1 else link_bytes  # a 400 Gbit/s card a GPU
        return cls(name, count, hosts, peak_flops(device), memory_gib, hbm_bytes, link_bytes, slow)

    @classmethod
    def of_cpu(cls, gflops: float, memory_gib: float) -> "Machine":
        """One process on CPUs that reach so many GFLOP/s, measured; utilisations are then relative to it."""
        if not gflops > 0:
            raise ValueError(f"--cpu is {gflops:g}; expected GFLOP/s above 0, as training reaches them here.")
        return cls("CPU", 1, 1, gflops * 1e9, memory_gib, CPU_BYTES, CPU_BYTES, CPU_BYTES)


def plan_mesh(config: ConfigDict, machine: Machine, rows: int) -> AbstractMesh:
    """The config's mesh over the machine's chips; where a batch of `rows` has too few, over as many as divide it.

    Raises:
      ValueError: the axes do not fit the chips.
    """
    sizes = [config.mesh[axis] for axis in AXES]
    if sizes.count(-1) == 1:
        known = math.prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = max(machine.chips // known, 1)
    if math.prod(sizes) != machine.chips or min(sizes) < 1:
        raise ValueError(
            f"mesh.data={config.mesh.data}, mesh.fsdp={config.mesh.fsdp}, mesh.tensor={config.mesh.tensor} do not fit "
            f"the {machine.chips} chips of {machine.name}; expected a product of {machine.chips}, at most one is -1."
        )
    parts = sizes[0] * sizes[1]
    if rows % parts:
        sizes[0] = max(math.gcd(rows, parts) // sizes[1], 1)
    if rows % (sizes[0] * sizes[1]):
        raise ValueError(f"a batch of {rows} rows cannot be split over mesh.fsdp={sizes[1]}; lower it.")
    return AbstractMesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_parts(mesh: AbstractMesh) -> int:
    """Into how many parts the rows of a batch are split."""
    return math.prod(mesh.shape[axis] for axis in BATCH)
