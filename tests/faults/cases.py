"""What a stranger's file is, what is right for it, and how a reading is judged."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.faults.server import TRACEBACK, Done

RIGHT, TOLD = "right value", "clear error"
WRONG, TRACED, HUNG, UNCLEAR = "silently wrong", "traceback", "hang", "unclear error"
OUTCOMES = (RIGHT, TOLD, WRONG, TRACED, HUNG, UNCLEAR)


class Case(NamedTuple):
    """One file, or directory, that is read.

    Attributes:
      path: what the reader is given.
      value: the right value, as the reader prints it; None where only an error is right.
      error: a pattern of the right error; "" where only the value is right.
      how: what else the reader is told; `base`, a directory, may be opened, too.
    """

    path: Path
    value: Any = None
    error: str = ""
    how: Mapping[str, Any] = {}

    @property
    def also(self) -> list[str]:
        """What may be opened beside `path`."""
        return [self.how["base"]] if "base" in self.how else []


Make = Callable[[Path, np.random.Generator], Iterator[Case]]


class Kind(NamedTuple):
    """A class of files: `make(folder, rng)` gives `Case`s, of which `count` are taken, from a folder each."""

    name: str
    count: int
    make: Make


def fresh(folder: Path) -> Path:
    """A new folder in a folder."""
    own = folder / f"f{len([*folder.iterdir()])}"
    own.mkdir()
    return own


def judged(case: Case, done: Done) -> tuple[str, str]:
    """(one of OUTCOMES, what was found)."""
    if done.hung:
        return HUNG, f"after {done.seconds:.0f} s"
    if done.code < 0 or TRACEBACK in done.err + done.out:
        return TRACED, f"code {done.code}: {done.err[-2000:]}"
    found = json.loads(done.out.rstrip("\n").rpartition("\n")[2])
    if "error" in found:
        text = found["error"]
        clear = case.error and re.search(case.error, text, re.DOTALL) and len(text) < 1500
        named = str(case.path)[:60].split("\n")[0] in text or case.path.name[:20] in text
        return (TOLD if clear and named else UNCLEAR), text
    alike = case.value is not None and same(case.value, found["value"])
    return (RIGHT if alike else WRONG), f"{json.dumps(found['value'])[:600]}; right is {json.dumps(case.value)[:600]}"


def same(wanted: Any, found: Any) -> bool:
    """Equal but for 0.001 of a number.

    `{"about": [value, tolerance]}`; `{"count": pictures}` and `{"pictures": [...]}` allow one more or less at the end,
    and one beside each change.
    """
    if isinstance(wanted, dict) and wanted.keys() == {"about"}:
        return abs(found - wanted["about"][0]) <= wanted["about"][1]
    if isinstance(wanted, dict) and wanted.keys() == {"count"}:
        return abs(len(found) - wanted["count"]) <= 1
    if isinstance(wanted, dict) and wanted.keys() == {"pictures"}:
        changes = sum(a != b for a, b in zip(wanted["pictures"], wanted["pictures"][1:]))
        wrong = sum(a != b for a, b in zip(wanted["pictures"], found, strict=False))
        return abs(len(found) - len(wanted["pictures"])) <= 1 and wrong <= changes
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict) and wanted.keys() == found.keys() and all(same(wanted[k], found[k]) for k in wanted)
        )
    if isinstance(wanted, list | tuple):
        return isinstance(found, list) and len(wanted) == len(found) and all(map(same, wanted, found))
    if isinstance(wanted, float):
        return isinstance(found, int | float) and math.isclose(wanted, found, rel_tol=1e-3, abs_tol=1e-3)
    return wanted == found
