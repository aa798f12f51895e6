"""What a training holds and sends as XLA compiles it, in place of what is counted in closed form."""

import dataclasses
import logging
import math

import jax

from revision_jax.ahead.compiling import SPARE, compile_one
from revision_jax.ahead.programs import train_programs
from revision_jax.config import ConfigError
from revision_jax.parallel.mesh import make_mesh
from revision_jax.parallel.topology import Topology
from revision_jax.planning.work import Work
from revision_jax.runs.run import Run
from revision_jax.units import GIB

log = logging.getLogger(__name__)


def compiled_work(work: Work, run: Run, name: str, steps: int) -> Work:
    """The work with the memory of a chip, and the bytes between chips, of the compiled programs of a stage.

    Args:
      name: of the topology. steps: updates, in which the programs come in turn.

    Raises:
      ConfigError: libtpu is missing, or a program does not fit a chip.
    """
    topology = Topology.parse(name)
    if math.prod(run.mesh.shape.values()) < topology.num_chips:
        log.info("%s works on part of %s: not compiled, its closed form stays", work.name, name)
        return work
    try:
        mesh = make_mesh(**run.mesh.shape, devices=topology.devices())
    except RuntimeError as error:
        raise ConfigError(str(error)) from error
    reports = []
    for program, trace, facts in train_programs(Run(run.config, mesh=mesh), (1 - SPARE) * topology.chip.hbm_gib):
        with jax.set_mesh(mesh):
            reports.append(compile_one(trace, topology, facts))
        if not reports[-1]["fits"]:
            raise ConfigError(
                f"{program}: {reports[-1]['peak_gib']} GiB of {topology.chip.hbm_gib}; ask `python -m "
                "revision_jax.compile`, which says what to lower."
            )
    sent = lambda kinds: steps / len(reports) * sum(
        (1 + (kind == "all-reduce")) * row["bytes"]
        for report in reports for kind, row in report["collectives"].items() if (kind == "all-reduce") in kinds
    )  # fmt: skip
    inside, gradients = sent((False,)), sent((True,))
    slow = topology.slices > 1
    return dataclasses.replace(
        work,
        device_bytes=max(report["peak_gib"] for report in reports) * GIB,
        link_bytes=inside + (0 if slow else gradients),
        slow_bytes=gradients if slow else 0,
        note=f"{work.note}, compiled",
    )
