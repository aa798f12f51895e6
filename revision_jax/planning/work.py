"""The work of one step of the recipe, and how long it takes: as long as the slowest of the resources that it needs."""

import dataclasses
import math

from revision_jax.planning.machine import Machine
from revision_jax.planning.rates import Rates
from revision_jax.units import GIB


@dataclasses.dataclass(frozen=True)
class Work:
    """What a step of the recipe has to do and to hold.

    Attributes:
      name: of the step. note: one clause for a person; "" if there is nothing to say.
      flops: over all chips; utilisation: the share of the peak that they reach.
      chips: that work; the others of the machine are held and wait.
      memory_bytes: that each chip moves from and to its memory, in all.
      link_bytes, slow_bytes: that each chip sends to others, in all: to neighbours, and over what is slower.
      core_s: seconds of one core, over all hosts. processes: that share them at most; 0 = every core of the machine.
      windows: that the input pipeline loads, over all hosts.
      read_bytes, written_bytes: of files, over all hosts. hosts: that read and write them; 0 = all.
      commands: that are started; programs: that they compile beyond the one that a start holds.
      disk_bytes: that stay. host_bytes: of a host's memory. device_bytes: of a chip's memory.
    """

    name: str
    flops: float = 0.0
    utilisation: float = 1.0
    chips: int = 1
    memory_bytes: float = 0.0
    link_bytes: float = 0.0
    slow_bytes: float = 0.0
    core_s: float = 0.0
    processes: int = 0
    windows: float = 0.0
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    hosts: int = 0
    commands: int = 1
    programs: int = 0
    disk_bytes: float = 0.0
    host_bytes: float = 0.0
    device_bytes: float = 0.0
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Step:
    """One row of the table.

    Attributes:
      bound: what takes the time: arithmetic, memory, network, cores, input, disk, or start.
      seconds: name of a resource -> seconds that it takes, each as if it were alone.
    """

    name: str
    hours: float
    chip_hours: float
    disk_gib: float
    host_gib: float
    device_gib: float
    network_gib: float
    read_gib: float
    bound: str
    seconds: dict[str, float]
    note: str


def take(work: Work, machine: Machine, rates: Rates) -> Step:
    """How long a work takes on a machine.

    What a step does at once overlaps: it takes as long as the slowest of its resources, and the start of its commands.
    """
    cores = work.processes or rates.cores * machine.chips
    seconds = {
        "arithmetic": work.flops / (work.chips * machine.flops * work.utilisation),
        "memory": work.memory_bytes / machine.hbm_bytes,
        "network": work.link_bytes / machine.link_bytes + work.slow_bytes / machine.slow_bytes,
        "cores": work.core_s / cores,
        "input": work.windows / (rates.windows_s * math.ceil(machine.hosts * work.chips / machine.chips)),
        "disk": (work.read_bytes + work.written_bytes) / (rates.read_gbs * 1e9 * (work.hosts or machine.hosts)),
    }
    start = rates.start_s * work.commands + rates.program_s * work.programs
    longest = max(seconds, key=seconds.get)
    bound = longest if seconds[longest] > start else "start"
    hours = (seconds[longest] + start) / 3600
    return Step(
        name=work.name,
        hours=hours,
        chip_hours=hours * machine.chips,
        disk_gib=work.disk_bytes / GIB,
        host_gib=work.host_bytes / GIB,
        device_gib=work.device_bytes / GIB,
        network_gib=(work.link_bytes + work.slow_bytes) / GIB,
        read_gib=(work.read_bytes + work.written_bytes) / GIB,
        bound=bound,
        seconds=seconds | {"start": start},
        note=work.note,
    )
