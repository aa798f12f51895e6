"""A plan as a table and as JSON lines."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from revision_jax.ahead.roofline import significant
from revision_jax.planning.counts import Count
from revision_jax.planning.machine import Machine
from revision_jax.planning.work import Step
from revision_jax.report.table import print_rows

HEADINGS = ("step", "hours", "chip-hours", "disk GiB", "read GiB", "network GiB", "host GiB", "chip GiB", "bound by")
NOTE = "computed, not measured; GiB of a host and of a chip are the most at a time"


def as_json(step: Step) -> dict[str, Any]:
    """Plain values, rounded to four digits."""
    values = dataclasses.asdict(step)
    rounded = {name: significant(value) if isinstance(value, float) else value for name, value in values.items()}
    return rounded | {"seconds": {name: significant(value) for name, value in step.seconds.items()}}


def print_plan(spec: str, machine: Machine, counts: dict[str, tuple[Count, str]], steps: Sequence[Step]) -> None:
    """Prints the table with its sum, and what each step does."""
    for split, (count, origin) in counts.items():
        print(f"{split}: {count.videos:,} videos, {count.hours:,.0f} h, {count.queries:,} queries ({origin})")
    rows = [_row(step) for step in steps]
    total = ["together", _told(sum(s.hours for s in steps)), _told(sum(s.chip_hours for s in steps))]
    total += [_told(sum(getattr(s, name) for s in steps)) for name in ("disk_gib", "read_gib", "network_gib")]
    total += [_told(max(getattr(s, name) for s in steps)) for name in ("host_gib", "device_gib")]
    print_rows(f"{spec} on {machine.name}", NOTE, HEADINGS, [*rows, [*total, ""]], "together")
    for step in steps:
        print(f"{step.name}: {step.note}")


def _row(step: Step) -> list[str]:
    sizes = (step.disk_gib, step.read_gib, step.network_gib, step.host_gib, step.device_gib)
    return [step.name, _told(step.hours), _told(step.chip_hours), *map(_told, sizes), step.bound]


def _told(value: float) -> str:
    """Two digits that count, and no more after the point than help."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}" if value >= 0.01 else "0"
