"""Where a step's time goes: the compiled operations of a trace that took longest, and their kinds.

    python -m revision_jax.train --config configs/stage1.py --workdir RUN --profile --config.train.steps=20
    python -m revision_jax.benchmarks.top_operations RUN/profile

Time is an operation's own, summed over all threads or streams, without that of operations within it (loops), a step. An
operation that several threads share is an event on each.
A kind is a name without its number: the compiler calls operations by what is in them. Prints two tables in Markdown.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jax

NO_OPERATION = "end:"  # of an event: it tells that one ended


class Span(NamedTuple):
    """An operation on one thread, in nanoseconds."""

    name: str
    start: float
    end: float


def own_times(spans: Iterable[Span]) -> Counter:
    """Name -> nanoseconds, without those of spans within it, of one thread or stream."""
    found, around = Counter(), []
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        while around and around[-1].end <= span.start:
            around.pop()
        if around:
            found[around[-1].name] -= min(span.end, around[-1].end) - span.start
        found[span.name] += span.end - span.start
        around.append(span)
    return found


def operations(trace: Path, module: str) -> tuple[Counter, Counter]:
    """(nanoseconds, number) of each operation of a compiled module, in a file `*.xplane.pb`."""
    times, numbers = Counter(), Counter()
    for plane in jax.profiler.ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            spans = []
            for event in line.events:
                stats = {} if event.name.startswith(NO_OPERATION) else dict(event.stats)
                if stats.get("hlo_module") == module and "hlo_op" in stats:
                    spans.append(Span(stats["hlo_op"], event.start_ns, event.start_ns + event.duration_ns))
            times.update(own_times(spans))
            numbers.update(span.name for span in spans)
    return times, numbers


def find_trace(folder: Path) -> Path:
    """The newest trace in a folder.

    Raises:
      FileNotFoundError: there is none.
    """
    traces = sorted(folder.glob("plugins/profile/*/*.xplane.pb"))
    if not traces:
        raise FileNotFoundError(f"no trace in {folder}; expected plugins/profile/*/*.xplane.pb of `train --profile`")
    return traces[-1]


def by_kind(counts: Counter) -> Counter:
    """The same, of operations whose names differ in their number alone together."""
    found = Counter()
    for name, count in counts.items():
        found[re.sub(r"(\.\d+)+$", "", name)] += count
    return found


def table(heading: str, times: Counter, numbers: Counter, *, steps: int, top: int) -> str:
    """Markdown: what took longest, and all of it."""
    whole = sum(times.values())
    rows = [(f"`{name}`", numbers[name], time) for name, time in times.most_common(top)]
    rows.append((f"all {len(times)}", sum(numbers.values()), whole))
    lines = [f"| {heading} | events a step | ms a step | share |", "|---|---|---|---|"]
    for name, number, time in rows:
        lines.append(f"| {name} | {number / steps:g} | {time / 1e6 / steps:.2f} | {100 * time / whole:.1f} % |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("profile", type=Path, help="RUN/profile")
    parser.add_argument("--top", type=int, default=10, help="rows to show (default: %(default)s)")
    parser.add_argument("--module", default="jit_train_step", help="compiled program (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="calls of it in the trace (default: %(default)s)")
    args = parser.parse_args(argv)
    times, numbers = operations(find_trace(args.profile), args.module)
    if not times:
        parser.error(f"{args.profile} has no operation of {args.module}; expected the name of a compiled program")
    print(table("operation", times, numbers, steps=args.steps, top=args.top), end="\n\n")
    print(table("kind", by_kind(times), by_kind(numbers), steps=args.steps, top=args.top))
    return 0


if __name__ == "__main__":
    sys.exit(main())
