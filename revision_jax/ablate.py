"""Run a study, a grid of trainings and evaluations that answers a question: `python -m revision_jax.ablate --help`."""

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

from revision_jax import lazy, verb
from revision_jax.config import ConfigError

grid = lazy.module("revision_jax.studies.grid")
listing = lazy.module("revision_jax.studies.listing")
memory = lazy.module("revision_jax.parallel.memory")
running = lazy.module("revision_jax.studies.running")

STUDIES = "configs/ablation.py"
USAGE = """
Examples:
  python -m revision_jax.ablate --list                                            the studies, and what each takes
  python -m revision_jax.ablate --config configs/ablation.py:modules --dry-run     its rows, and what is there already
  python -m revision_jax.ablate --config configs/ablation.py:modules
  python -m revision_jax.ablate --config configs/ablation.py:modules --seeds 0 --config.train.steps=50
  python -m revision_jax.ablate --config configs/ablation.py:variants_mad ...      says which files the 7B runs need

A study is a table: each row is a chain of stages and an evaluation of the last one, for each of several seeds. Stages
that rows or studies share are trained once: STUDIES/stages holds them, by a hash of all that decides what is trained
(fields, pretrained parts, data, the stages before). The same command goes on; what is finished is not done again.

STUDIES/NAME holds results.json (every number, with seeds, config hash, commit, machine and versions), table.md, a plot
for each plotted score, and index.html. A row that fails is told at the end, NAME/errors says where; others are kept.
Exit code 0, 1 if a row failed, 2 after one clear error line. One process does it all. Several machines share a study by
seeds: `--seeds 0` on one, `--seeds 1` on another, then `--seeds 0,1,2 --join A/results.json B/results.json`, which does
seed 2 and writes all. A row that was trained or evaluated otherwise there is refused. On several hosts of a pod the
stages are trained by `train`, one by one.

configs/ablation.py declares the studies, and is where one's own is added.
"""


def make_parser() -> argparse.ArgumentParser:
    usage = (
        "%(prog)s --config FILE:STUDY [--workdir STUDIES] [--seeds N,N] [--join FILE ...] [--dry-run] "
        "[--config.KEY=VALUE ...] | --list"
    )
    parser = verb.make_parser("ablate", __doc__, USAGE, usage)
    verb.add_config(parser, STUDIES)
    parser.add_argument("--workdir", type=Path, default=Path("studies_out"), metavar="STUDIES",
                        help="output folder of all studies (default: %(default)s)")  # fmt: skip
    parser.add_argument("--seeds", default="0,1,2", metavar="N,N", help="default: %(default)s")
    parser.add_argument("--join", type=Path, nargs="+", default=[], metavar="FILE",
                        help="results.json of this study from elsewhere; what it holds is not done again")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="the studies of the file, and what each takes")
    parser.add_argument("--dry-run", action="store_true", help="the rows, and which of their stages are there")
    verb.add_unknown(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, 1 if a row failed, or 2 after one clear error line."""
    return verb.run(act, verb.parse(make_parser(), argv, ["config"]))


def act(args: argparse.Namespace) -> int | None:
    seeds, (path, colon, name) = read_seeds(args.seeds), args.config.partition(":")
    if args.list:
        return listing.print_studies(path, seeds, args.fields, args.workdir)
    if not colon or not name:
        raise ConfigError(f"--config is {args.config}, without a study; expected {path}:STUDY, and --list names them.")
    if os.environ.get("JAX_COORDINATOR_ADDRESS"):
        raise ConfigError("JAX_COORDINATOR_ADDRESS is set; expected one process: a study is not divided among hosts.")
    study = grid.load(args.config, args.fields)
    if args.dry_run and args.join:
        raise ConfigError("--join and --dry-run were both given; expected one: a plan is of what is done here.")
    if args.dry_run:
        return listing.print_plan(study, seeds, args.workdir)
    memory.keep_freed_memory()
    return running.run(study, args.workdir, seeds, command(args), files=args.join, debug=args.debug)


def read_seeds(text: str) -> list[int]:
    """`0,1,2` -> [0, 1, 2].

    Raises:
      ConfigError: no numbers, or one twice.
    """
    if not re.fullmatch(r"\d+(,\d+)*", text) or len(set(text.split(","))) < len(text.split(",")):
        raise ConfigError(f"--seeds is {text!r}; expected different whole numbers such as 0,1,2.")
    return [int(part) for part in text.split(",")]


def command(args: argparse.Namespace) -> str:
    """The command that goes on with this study."""
    words = ["python", "-m", "revision_jax.ablate", "--config", args.config, "--workdir", str(args.workdir)]
    words += ["--seeds", args.seeds, *(f"--config.{key}={value}" for key, value in args.fields.items())]
    words += ["--join", *map(str, args.join)] if args.join else []
    return shlex.join(words)


if __name__ == "__main__":
    sys.exit(main())
