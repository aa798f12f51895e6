"""Plan what a recipe costs on a machine that is not there: `python -m revision_jax.plan --help`."""

import argparse
import json
import sys
from pathlib import Path

from revision_jax import config as configs
from revision_jax import disk, lazy, verb
from revision_jax.planning import rates

counting = lazy.module("revision_jax.planning.counts")
machines = lazy.module("revision_jax.planning.machine")
memory = lazy.module("revision_jax.parallel.memory")
recipes = lazy.module("revision_jax.planning.recipe")
telling = lazy.module("revision_jax.planning.telling")

USAGE = """
Examples:
  python -m revision_jax.plan --config configs/stage1.py:vidchapters --topology v5p-128
  python -m revision_jax.plan --config configs/stage1.py:mad --gpus 8xH100
  python -m revision_jax.plan --config configs/stage1.py:mad --gpus 64xH100 --source videos \\
      --train 100000,100000,1000000 --val 100,100,1000 --test 1000,1000,10000        your own video
  python -m revision_jax.plan --config configs/stage1.py --cpu 56           the embedded default, on CPUs
  python -m revision_jax.plan --config configs/stage1.py:mad --topology v5e-16 --compile --config.mesh.data=1 \\
      --config.mesh.fsdp=16                                               memory and network as compiled

For each step hours, chip-hours, files that stay (disk) and that are read and written (read), bytes between chips
(network), the most memory of a host and of a chip, and what the time is bound by: a table, and a JSON line a step on
the standard output. FLOPs are counted in closed form from shapes, so that no weights, data or chip are needed, and
half a minute; --compile asks XLA for memory and network instead, minutes a program, and needs libtpu. What cannot be
counted is assumed: each assumption is a flag below, with its source. docs/scale.md tells how far this was from what
was measured. A step takes as long as its slowest resource, and the start of its commands.
"""


def make_parser() -> argparse.ArgumentParser:
    usage = "%(prog)s --config FILE:PRESET (--topology NAME | --gpus NxNAME | --cpu GFLOPS) [--config.KEY=VALUE ...]"
    parser = verb.make_parser("plan", __doc__, USAGE, usage)
    verb.add_config(parser, configs.DEFAULT)
    chips = parser.add_mutually_exclusive_group(required=True)
    chips.add_argument("--topology", metavar="NAME", help="TPU slices: v5e-16, v5p-128, 2xv5e-16, ...")
    chips.add_argument("--gpus", metavar="NxNAME", help="8xH100, 64xH200, 8xA100")
    chips.add_argument("--cpu", type=float, metavar="GFLOPS", help="this machine, which reaches so many GFLOP/s")
    parser.add_argument("--steps", metavar="STEP,..", help="some of prepare, align, dense, evaluate dense, sparse, ...")
    parser.add_argument("--source", choices=("videos", "features"), help="what prepare reads (default: as published)")
    for split in ("train", "val", "test"):
        parser.add_argument(f"--{split}", metavar="VIDEOS,HOURS,QUERIES", help=f"of {split} (default: as prepared)")
    parser.add_argument("--compile", action="store_true", help="memory and network as XLA compiles them; --topology")
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file as well")
    rates.add_flags(parser)
    verb.add_unknown(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 2 after one clear error line."""
    return verb.run(act, verb.parse(make_parser(), argv, ["config"]))


def act(args: argparse.Namespace) -> None:
    assumed, machine = rates.rates_of(args, on_cpu=args.cpu is not None), _machine(args)
    found = recipes.configs_of(args.config, args.fields)
    counts = counting.counts_of(found["dense"], {split: getattr(args, split) for split in counting.SPLITS})
    source = recipes.source_of(found["dense"], args.source)
    sizes, topology = {split: count for split, (count, _) in counts.items()}, args.topology if args.compile else ""
    recipe, steps = recipes.Recipe(found, sizes, source, machine, assumed, topology), []
    for step in recipe.steps(recipes.steps_wanted(args.steps)):
        steps.append(step)
        print(json.dumps(telling.as_json(step)), flush=True)
        if args.out:
            with disk.room_in(args.out), args.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(telling.as_json(step)) + "\n")
    if not steps:
        raise ValueError(f"nothing to plan: {args.config} has no config of the stages that --steps names.")
    telling.print_plan(args.config, machine, counts, steps)


def _machine(args: argparse.Namespace):
    if args.compile and not args.topology:
        raise ValueError("--compile needs --topology: programs for GPUs are compiled where GPUs are.")
    if args.topology:
        return machines.Machine.of_topology(args.topology)
    if args.gpus:
        return machines.Machine.of_gpus(args.gpus)
    return machines.Machine.of_cpu(args.cpu, memory.host_limit() / 2**30)


if __name__ == "__main__":
    sys.exit(main())
