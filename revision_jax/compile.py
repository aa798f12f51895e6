"""Compile a config for a TPU slice, without a TPU: `python -m revision_jax.compile --help`."""

import argparse
import json
import sys
from pathlib import Path

from revision_jax import config as configs
from revision_jax import disk, lazy, verb

compiling = lazy.module("revision_jax.ahead.compiling")

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
    usage = "%(prog)s --config FILE:PRESET --topology NAME [--config.KEY=VALUE ...]"
    parser = verb.make_parser("compile", __doc__, USAGE, usage)
    verb.add_config(parser, configs.DEFAULT)
    parser.add_argument("--topology", required=True, help="v5e-16, v5p-128, v6e-16, v4-8, 2xv5e-16 (two slices), ...")
    parser.add_argument(
        "--program", choices=("train", "search", "extract"), default="train", help="what is compiled (default: train)"
    )
    parser.add_argument("--out", type=Path, help="append the JSON lines to this file as well")
    verb.add_unknown(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 where a program does not fit; 2 after one clear error line."""
    return verb.run(act, verb.parse(make_parser(), argv, ["config"]))


def act(args: argparse.Namespace) -> int:
    config = configs.load(args.config, args.fields)
    reports = compiling.compile_all(config, args.config, args.topology, args.program)
    for report in reports:
        print(json.dumps(report))
        if args.out:
            with disk.room_in(args.out), args.out.open("a", encoding="utf-8") as out:
                out.write(json.dumps(report) + "\n")
    return 0 if all(report["fits"] for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
