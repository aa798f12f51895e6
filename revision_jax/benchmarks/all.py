"""What this project claims to be fast at, beside peers, in one call: docs/benchmarks.json, and the table made from it.

    python -m revision_jax.benchmarks.all --fast        # minutes on two cores, in a clone
    python -m revision_jax.benchmarks.all               # more sizes and rounds
    python -m revision_jax.benchmarks.all --table       # the table alone, from the file as it is

All of it is on CPUs. Each comparison is a command of its own, in a process of its own, and stands in the file beside
what it gave. A command that fails ends the call, and nothing is written. Run it on a machine that does nothing else:
the file keeps its load.
"""

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from revision_jax.benchmarks.machine import machine, versions
from revision_jax.benchmarks.peers_table import PAGE, with_table
from revision_jax.files import read_json, write_json, write_text
from revision_jax.text import split_lines

JSON = "benchmarks.json"
ON_CPUS = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # both sides, on machines with a GPU, too
STEP = "--dtype float32 --remat none --dropout 0 --torch"
FAST = (
    f"train_step --shape tiny {STEP} --unroll 5 --steps 2 --repeat 7",
    f"train_step --shape 135m --batch 1 {STEP} --steps 1 --repeat 3",
    "decoding --width 320 --height 240 --codec av1 --seconds 60 --repeat 3",
    "decoding --width 1280 --height 720 --codec h264 --repeat 3",
    "decoding --width 1920 --height 1080 --codec hevc --seconds 10 --repeat 3",
    "extraction --repeat 3",
    "extraction --encoder random-b32 --fps 1 --seconds 30 --repeat 3",
    "loaders --gigabytes 0.3 --windows 800 --repeat 3",
    "span_decoding --windows 16 --repeat 3",
)
WHOLE = (
    f"train_step --shape tiny {STEP} --unroll 5 --steps 4 --repeat 11",
    f"train_step --shape 135m {STEP} --steps 1 --repeat 7",
    f"train_step --shape 1b {STEP} --steps 1 --repeat 7",
    "decoding --width 320 --height 240 --codec h264,hevc,av1 --seconds 60 --repeat 7",
    "decoding --width 1280 --height 720 --codec h264,hevc,av1 --seconds 60 --repeat 5",
    "decoding --width 1920 --height 1080 --codec h264,hevc,av1 --seconds 30 --repeat 5",
    "extraction --repeat 7",
    "extraction --width 1280 --height 720 --repeat 5",
    "extraction --encoder random-b32 --repeat 5",
    "loaders --gigabytes 1 --repeat 7",
    "span_decoding --windows 64 --repeat 7",
)


def run(command: str) -> dict[str, Any]:
    """What a benchmark prints, its command and its seconds.

    Args:
      command: a module of this room and its flags.

    Raises:
      RuntimeError: it failed; the message ends with its own.
    """
    module, *flags = shlex.split(command)
    whole = ["python", "-m", f"{__package__}.{module}", *flags]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *whole[1:]], env=os.environ | ON_CPUS, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`{shlex.join(whole)}` failed with {done.returncode}:\n{done.stderr.strip()[-2000:]}")
    report = json.loads(split_lines(done.stdout)[-1])
    return {"command": shlex.join(whole), "seconds": round(time.perf_counter() - started, 1), **report}


def measure(commands: Sequence[str]) -> dict[str, Any]:
    """All of it, with the machine, its load before the start, and the versions."""
    about = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions()}
    reports = []
    for command in commands:
        print(command, file=sys.stderr, flush=True)
        reports.append(run(command))
        print(f"  {reports[-1]['seconds']} s", file=sys.stderr, flush=True)
    return {**about, "seconds": round(sum(report["seconds"] for report in reports), 1), "reports": reports}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--fast", action="store_true", help="few sizes and rounds")
    what.add_argument("--table", action="store_true", help="measure nothing: make the table again")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="folder of the pages (default: %(default)s)")
    args = parser.parse_args(argv)
    page, kept = args.docs / PAGE, args.docs / JSON
    if not page.is_file():
        parser.error(f"there is no {page}; run this in a clone of the repository, or name its docs with --docs")
    text = page.read_text(encoding="utf-8")
    with_table(text, None)  # a page without a place for the table is told before the minutes
    if args.table:
        write_text(page, with_table(text, read_json(kept)))
        return 0
    found = measure(FAST if args.fast else WHOLE)
    found = {"command": f"python -m {__package__}.all{' --fast' * args.fast}", **found}
    write_json(kept, found)
    write_text(page, with_table(text, found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
