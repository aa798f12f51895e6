"""Programs compiled for a TPU slice without a TPU: does each fit, what is sent, how fast can it be at most?"""

import re
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from revision_jax.ahead.programs import PROGRAMS, Facts
from revision_jax.ahead.roofline import roofline, unplanned_gathers
from revision_jax.config import ConfigError
from revision_jax.models.names import REMAT_POLICIES
from revision_jax.parallel.collectives import read_collectives, summarise
from revision_jax.parallel.mesh import make_mesh
from revision_jax.parallel.topology import Topology
from revision_jax.report.table import print_rows
from revision_jax.runs.run import Run
from revision_jax.training.loop import check_batches
from revision_jax.units import GIB

SPARE = 0.1  # of a chip's memory: below it a warning, for the runtime keeps some for itself


def compile_all(config: ConfigDict, spec: str, topology_name: str, what: str) -> list[dict[str, Any]]:
    """Compiles every program of a kind; prints a table and returns a report for each.

    Raises:
      ValueError: a mesh that does not fit the slice, a layer that does not fit the mesh, an unknown topology; libtpu is
        missing.
    """
    topology = Topology.parse(topology_name)
    try:
        devices = topology.devices()
    except RuntimeError as error:  # libtpu is missing, or knows no such slice
        raise ConfigError(str(error)) from error
    mesh = make_mesh(**config.mesh, devices=devices)
    if what == "train":
        check_batches(config, mesh)
    reports = []
    run = Run(config, mesh=mesh)
    memory_gib = (1 - SPARE) * topology.chip.hbm_gib
    for name, trace, facts in PROGRAMS[what](run, memory_gib):
        report = {"config": spec, "program": name, "topology": topology.name, "mesh": dict(mesh.shape)}
        with jax.set_mesh(mesh):  # not longer: nothing can be run on described devices
            report |= compile_one(trace, topology, facts)
        report["advice"] = "" if report["fits"] else advise(config, report, what)
        print_report(report)
        reports.append(report)
    return reports


def compile_one(trace: Callable[[], jax.stages.Traced], topology: Topology, facts: Facts) -> dict[str, Any]:
    """Compiles; what it takes of a chip, what is sent, and the roofline.

    Args:
      facts: `parts` (name -> bytes a chip that lie there before), and for a train step `flops`, `executed` FLOPs.
    """
    hbm, started = topology.chip.hbm_gib * GIB, time.perf_counter()
    report = {"parts_gib": {name: round(size / GIB, 3) for name, size in facts["parts"].items()}}
    try:
        compiled = trace().lower().compile()
    except RuntimeError as error:  # XLA's own type; it says how much was too much
        used = re.search(r"Used ([\d.]+)G of ([\d.]+)G hbm", str(error))
        if not used:
            raise
        return report | {"fits": False, "peak_gib": float(used[1]), "hbm_gib": float(used[2]), "spare": 0.0}
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    report["parts_gib"]["activations and temporaries"] = round(memory.temp_size_in_bytes / GIB, 3)
    collectives = read_collectives(compiled.as_text())
    report |= {
        "fits": peak <= hbm,
        "peak_gib": round(peak / GIB, 3),
        "hbm_gib": topology.chip.hbm_gib,
        "spare": round(1 - peak / hbm, 3),
        "collectives": summarise(collectives),
        "unplanned_gathers": unplanned_gathers(collectives, facts),
        "compile_s": round(time.perf_counter() - started, 1),
    }
    return report | (roofline(topology, facts, report) if "flops" in facts else {})


# ------------------------------------------------------------------------------------------- what to do
def advise(config: ConfigDict, report: dict[str, Any], what: str) -> str:
    """The setting to change where a program does not fit."""
    weights = sum(size for name, size in report["parts_gib"].items() if "weights" in name)
    if weights > report["hbm_gib"] / 2:
        axis = "fsdp" if what == "train" else "tensor"
        narrow = "" if config.model.param_dtype == "int8" else ", or set model.param_dtype to 'int8'"
        return (
            f"the weights take {weights:.1f} GiB a chip: raise mesh.{axis} (now {config.mesh[axis]}) and lower "
            f"mesh.data{narrow}"
        )
    if what == "search":
        return f"lower search.window_block (now {config.search.window_block}) or search.query_batch"
    if what == "extract":
        return "lower the batch of the extractor"
    if config.model.remat != "full":
        less = REMAT_POLICIES[REMAT_POLICIES.index(config.model.remat) + 1]
        return f"set model.remat to {less!r} (now {config.model.remat!r})"
    return f"raise train.accumulate (now {config.train.accumulate}) or lower train.batch_size"


def print_report(report: dict[str, Any]) -> None:
    """Prints what a program takes of a chip, what is sent, and the roofline, as tables."""
    rows = [[name, f"{size:.2f}"] for name, size in report["parts_gib"].items()]
    rows += [["peak", f"{report['peak_gib']:.2f}"], ["of", f"{report['hbm_gib']:.2f}"]]
    title = f"{report['program']} of {report['config']} on {report['topology']}, GiB a chip"
    verdict = f"fits, {report['spare']:.0%} spare" if report["fits"] else f"does not fit: {report['advice']}"
    if report["fits"] and report["spare"] < SPARE:
        verdict += f" (less than {SPARE:.0%}: little room for the runtime)"
    print_rows(title, verdict, ["memory", "GiB"], rows, "peak")
    sent = [[kind, str(row["count"]), *(f"{row[key] / 2**20:.1f}" for key in ("bytes", "largest"))] for kind, row in
            report.get("collectives", {}).items()]  # fmt: skip
    if sent:
        gathers = report["unplanned_gathers"]
        note = f"all-gathers larger than a layer's matrix: {len(gathers)}" if gathers else "every gather is a matrix"
        print_rows("collectives a run", note, ["kind", "count", "MiB", "largest"], sent)
    if "roofline_step_s" in report:
        print(
            f"{report['model_tflops']} model TFLOP; roofline {report['roofline_step_s']} s a step "
            f"(arithmetic {report['arithmetic_s']}, memory {report['memory_s']}, network {report['network_s']}), "
            f"MFU at most {report['roofline_mfu']:.0%}; compiled in {report['compile_s']} s",
            file=sys.stderr,
        )
