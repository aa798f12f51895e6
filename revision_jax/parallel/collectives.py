"""What devices send each other: the collectives of a compiled program, read from its HLO text.

The text has the body of a loop once. Its collectives count as often as the loop runs, where the text tells: as a known
trip count, or by a condition `i < constant` (the loop is then taken to start at 0, as a scan does).
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_OPERATION = re.compile(r"= (?P<shape>.+?) (?P<kind>" + "|".join(KINDS) + r")(?P<start>-start)?\(")
_CALLED = re.compile(r"(?:calls|to_apply|body|condition|async_execution_thread|called_computations)=\{?%([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%([\w.\-]+)")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_BELOW = re.compile(r"ROOT .* compare\([^,]*%[\w.\-]+, [^,]*%([\w.\-]+)\), direction=LT")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation of the program.

    Attributes:
      kind: of KINDS.
      bytes: of its result on a device (of the largest array, where it has several in flight).
      times: how often a run of the program executes it.
    """

    kind: str
    bytes: float
    times: int


def read_collectives(hlo: str) -> list[Collective]:
    """The collectives of `compiled.as_text()`."""
    computations, entry = _computations(hlo)
    times = collections.Counter({entry: 1})
    for name in _callers_first(computations, entry):
        for line in computations[name]:
            runs = _trips(line, computations) if " while(" in line else 1
            for called in _called(line, computations):
                times[called] += times[name] * runs
    found = {}
    for name, lines in computations.items():
        for number, line in enumerate(lines):
            if times[name] and (match := _OPERATION.search(line)):
                one = Collective(match["kind"], _size(match["shape"], bool(match["start"])), times[name])
                # A TPU's program fuses parts of one operation with what is computed meanwhile; all bear its channel.
                channel = _CHANNEL.search(line)
                found.setdefault((one.kind, channel[1]) if channel else (name, number), one)
    return list(found.values())


def summarise(found: Iterable[Collective]) -> dict[str, dict[str, float]]:
    """Kind -> `count` and `bytes` of a run, and the `largest` single one in bytes."""
    table: dict[str, dict[str, float]] = {}
    for one in found:
        row = table.setdefault(one.kind, {"count": 0, "bytes": 0.0, "largest": 0.0})
        row["count"] += one.times
        row["bytes"] += one.bytes * one.times
        row["largest"] = max(row["largest"], one.bytes)
    return table


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    computations, entry, current = {}, "", None
    for line in hlo.splitlines():
        header = _HEADER.match(line)
        if header and not line.startswith(" "):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif current is not None:
            current.append(line)
    if not entry:
        raise ValueError("the text has no ENTRY computation; expected the HLO of a compiled program.")
    return computations, entry


def _called(line: str, computations: dict) -> list[str]:
    names = _CALLED.findall(line)
    for group in _BRANCHES.findall(line):
        names += [name.strip().lstrip("%") for name in group.split(",")]
    return [name for name in dict.fromkeys(names) if name in computations]


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """How often a `while` runs its body; 1 where the text does not tell."""
    if known := _TRIPS.search(line):
        return int(known[1])
    condition = computations.get(_CONDITION.search(line)[1], [])
    below = next((match[1] for text in condition if (match := _BELOW.search(text))), None)
    constant = re.compile(rf"%{re.escape(below or '')} = s32\[\]\S* constant\((\d+)\)")
    return next((int(match[1]) for text in condition if (match := constant.search(text))), 1)


def _callers_first(computations: dict[str, list[str]], entry: str) -> list[str]:
    """Computations that `entry` reaches, every caller before what it calls."""
    order, seen = [], set()

    def visit(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        for line in computations[name]:
            for called in _called(line, computations):
                visit(called)
        order.append(name)

    visit(entry)
    return order[::-1]


def _size(shape: str, started: bool) -> float:
    """Bytes of a result; a started operation's tuple holds operand and result, of which the larger counts."""
    arrays = [math.prod(map(int, filter(None, dims.split(",")))) * _BYTES.get(kind, 4) for kind, dims in
              _ARRAY.findall(re.sub(r"\{[^}]*\}", "", shape))]  # fmt: skip
    if not arrays:
        return 0.0
    return float(max(arrays) if started else sum(arrays))
