"""Compile a config for a TPU slice, without a TPU: `python -m revision_jax.compile --help`."""

import argparse
import functools
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from revision_jax import config as configs

GIB = 2**30
SPARE = 0.1  # of a chip's memory: below it a warning, for the runtime keeps some for itself
REMAT = ("none", "mlp", "names", "full")  # less and less kept
USAGE = """
Examples:
  python -m revision_jax.compile --config configs/stage1.py:mad --topology v5e-16 --config.mesh.data=1 \\
      --config.mesh.fsdp=16
  python -m revision_jax.compile --config configs/stage2.py:mad --topology v5p-16 --out fits.jsonl
  python -m revision_jax.compile --config configs/stage1.py:mad --topology 2xv5e-16 --config.mesh.data=2 \\
      --config.mesh.fsdp=16

No weights, data or TPU are needed, only libtpu (pip install 'revision_jax[tpu]') and one to three minutes a program.
Where the config names no files, Vicuna-7B and CLIP ViT-L/14 stand in. Exit code 1: a program does not fit.
The step time is a roofline: the slowest of arithmetic, memory and network at their published peaks. No run is faster.
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m revision_jax.compile",
        usage="%(prog)s --config FILE:PRESET --topology NAME [--config.KEY=VALUE ...]",
        description=__doc__.partition(":")[0] + ".",
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    configs.add_arguments(parser)
    parser.add_argument("--topology", required=True, help="v5e-16, v5p-128, v6e-16, v4-8, 2xv5e-16 (two slices), ...")
    parser.add_argument(
        "--program", choices=("train", "search", "extract"), default="train", help="what is compiled (default: train)"
    )
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file as well")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 where a program does not fit; 2 after one clear error line."""
    args, overrides = configs.parse(make_parser(), argv)
    try:
        reports = compile_all(configs.load(args.config, overrides), args.config, args.topology, args.program)
    except (ValueError, OSError, RuntimeError) as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    for report in reports:
        print(json.dumps(report))
        if args.out:
            with args.out.open("a") as out:
                out.write(json.dumps(report) + "\n")
    return 0 if all(report["fits"] for report in reports) else 1


def compile_all(config, spec: str, topology_name: str, what: str) -> list[dict[str, Any]]:
    """Compiles every program of a kind; prints a table and returns a report for each.

    Raises:
      ValueError: a mesh that does not fit the slice, a layer that does not fit the mesh, an unknown topology.
      RuntimeError: libtpu is missing.
    """
    import jax

    from revision_jax.parallel.mesh import check_batch, make_mesh
    from revision_jax.parallel.topology import Topology

    topology = Topology.parse(topology_name)
    mesh = make_mesh(**config.mesh, devices=topology.devices())
    if what == "train":
        check_batch(mesh, config.train.batch_size, "train.batch_size", config.train.accumulate)
    programs = {
        "train": train_programs,
        "search": functools.partial(search_programs, memory_gib=(1 - SPARE) * topology.chip.hbm_gib),
        "extract": extract_programs,
    }
    reports = []
    for name, lower, facts in programs[what](config, mesh):
        report = {"config": spec, "program": name, "topology": topology.name, "mesh": dict(mesh.shape)}
        with jax.set_mesh(mesh):  # not longer: nothing can be run on described devices
            report |= compile_one(lower, topology, facts)
        report["advice"] = "" if report["fits"] else advise(config, report, what)
        print_report(report)
        reports.append(report)
    return reports


def compile_one(lower: Callable, topology, facts: dict[str, Any]) -> dict[str, Any]:
    """Compiles; what it takes of a chip, what is sent, and the roofline.

    Args:
      facts: `parts` (name -> bytes a chip that lie there before), and for a train step `flops`, `executed` FLOPs.
    """
    from revision_jax.parallel.collectives import read_collectives, summarise

    hbm, started = topology.chip.hbm_gib * GIB, time.perf_counter()
    report = {"parts_gib": {name: round(size / GIB, 3) for name, size in facts["parts"].items()}}
    try:
        compiled = lower().compile()
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


def unplanned_gathers(collectives, facts: dict[str, Any]) -> list[float]:
    """Bytes of all-gathers larger than the largest matrix of one layer: weights of many layers, or a batch, at once."""
    sizes = {one.bytes for one in collectives if one.kind == "all-gather" and one.bytes > facts["largest_matrix"]}
    return sorted(sizes, reverse=True)


def roofline(topology, facts: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Seconds that arithmetic, memory and network take at their peaks; a step takes at least the longest of them."""
    from revision_jax.parallel.topology import DCN_BYTES

    chip, chips = topology.chip, topology.num_chips
    passes = 3 if facts["executed"] > facts["flops"] * 1.2 else 2  # weights are read forward, backward, again
    touched = facts["weight_bytes"] * passes + 2 * report["parts_gib"]["activations and temporaries"] * GIB
    # A ring sends a reduced array twice. Between slices only gradients are reduced, over the slow network.
    reduced = DCN_BYTES if topology.slices > 1 else chip.ici_bytes
    seconds_a_byte = lambda kind: 2 / reduced if kind == "all-reduce" else 1 / chip.ici_bytes
    seconds = {
        "arithmetic_s": facts["executed"] / chips / chip.flops,
        "memory_s": touched / chip.hbm_bytes,
        "network_s": sum(seconds_a_byte(kind) * row["bytes"] for kind, row in report["collectives"].items()),
    }
    step = max(seconds.values())
    return {
        "model_tflops": significant(facts["flops"] / 1e12),
        **{name: significant(value) for name, value in seconds.items()},
        "roofline_step_s": significant(step),
        "roofline_mfu": round(facts["flops"] / chips / chip.flops / step, 3),
    }


def significant(value: float, digits: int = 4) -> float:
    """Rounded to so many digits that count, however small it is."""
    return float(f"{value:.{digits}g}")


# ------------------------------------------------------------------------------------------- programs
def train_programs(config, mesh):
    """(name, function that lowers, facts) of every kind of batch of the stage."""
    from revision_jax.parallel.memory import held
    from revision_jax.runs.abstract import abstract_batches, abstract_step
    from revision_jax.training.flops import FlopCount

    program, state, frozen, step = abstract_step(config, mesh)
    shapes = {path: array.shape for path, array in (frozen | state.trainable).items()}
    count = FlopCount(shapes, set(state.trainable), len(program.prefix))
    for name, batch in abstract_batches(config, mesh).items():
        answers = 8 * config.train.batch_size * config.data.questions_per_window  # `From 07 to 113.` and `</s>`
        flops = count.step(batch, answers=answers)
        facts = {
            "parts": {
                "frozen weights": held(frozen),
                "trained": held(state.trainable),
                "optimizer": held(state.opt_state),
                "batch": held(batch),
            },
            "flops": flops,
            "executed": flops + recomputed(config.model.remat, count, batch),
            "weight_bytes": sum(array.size * array.dtype.itemsize for array in frozen.values()) / mesh.shape["tensor"],
            "largest_matrix": largest_matrix(frozen | state.trainable),
        }
        yield f"train, {name}", functools.partial(step.lower, state, batch, frozen), facts


def recomputed(remat: str, count, batch) -> float:
    """FLOPs of the forward pass that a remat policy repeats: of the layer's big products those that are not kept."""
    again = {
        "none": (),
        "mlp": ("o_proj",),
        "names": ("o_proj", "gate_proj", "up_proj"),
        "full": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"),
    }[remat]
    rows, length = batch["video"].shape[:2]
    tokens = rows * (count.prefix + length) + batch["tokens"].size
    sizes = [shape for path, shape in count.shapes.items() if path.split("/")[-2] in again and len(shape) == 3]
    return sum(2.0 * tokens * a * b * c for a, b, c in sizes)


def search_programs(config, mesh, memory_gib: float):
    """The search of a two-hour video for 64 queries: dense windows; of a stage that sees groups, all levels.

    Its blocks are chosen as where it runs: the largest that `memory_gib` a chip allows.
    """
    from revision_jax.parallel.memory import held
    from revision_jax.runs.abstract import abstract_grounder, abstract_prompts
    from revision_jax.runs.grounder import sees_groups
    from revision_jax.search.abstract import abstract_search
    from revision_jax.search.models import Models

    models = Models(abstract_grounder(config), abstract_grounder(config) if sees_groups(config) else None)
    depth = 1 + len(config.hierarchy.levels) if sees_groups(config) else 1
    lower, weights = abstract_search(config, models, abstract_prompts(config), mesh, depth, memory_gib)
    facts = {"parts": {"weights": held(weights)}, "largest_matrix": largest_matrix(weights)}
    yield f"search, depth {depth}", lower, facts


def extract_programs(config, mesh):
    """CLIP over a batch of frames."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from revision_jax.data.video.extraction import CLIP_MEAN, CLIP_STD, encode_images
    from revision_jax.parallel.memory import held
    from revision_jax.parallel.mesh import batch_sharding, replicated
    from revision_jax.runs.abstract import abstract_clip, clip_config

    graphdef, weights = nnx.split(abstract_clip(config))
    place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh))
    weights = jax.tree.map(place, weights)
    size = clip_config(config).vision.image_size
    rows = 128 * mesh.shape["data"] * mesh.shape["fsdp"]
    frames = jax.ShapeDtypeStruct((rows, size, size, 3), jnp.uint8, sharding=batch_sharding(mesh))
    encode = jax.jit(functools.partial(encode_images, graphdef, CLIP_MEAN, CLIP_STD))
    facts = {"parts": {"weights": held(weights), "batch": held(frames)}, "largest_matrix": largest_matrix(weights)}
    yield "extract, 128 frames a chip", functools.partial(encode.lower, weights, frames), facts


def largest_matrix(tree) -> float:
    """Bytes of the largest matrix, of stacked ones that of a layer."""
    import math

    import jax

    return max(math.prod(x.shape[-2:]) * x.dtype.itemsize for x in jax.tree.leaves(tree))


# ------------------------------------------------------------------------------------------- what to do
def advise(config, report: dict[str, Any], what: str) -> str:
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
        return f"set model.remat to {REMAT[REMAT.index(config.model.remat) + 1]!r} (now {config.model.remat!r})"
    return f"raise train.accumulate (now {config.train.accumulate}) or lower train.batch_size"


def print_report(report: dict[str, Any]) -> None:
    from revision_jax.report.table import print_rows

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


if __name__ == "__main__":
    sys.exit(main())
