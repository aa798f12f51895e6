"""What a process opened, started and connected to, from the log of `strace`: the reader's own files apart."""

import codecs
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.faults.reading import MARK
from tests.faults.server import ROOT

CALL = re.compile(r"^\d+ +(open|openat|openat2|creat|execve|connect)\((.*)")
NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')
EDGE = re.compile(rf"{MARK}/(\d+)/(begin|end)$")
# Of the interpreter and the system: code, libraries, and what the kernel tells about itself.
PYTHON = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parents[1])}
SYSTEM = ("/proc", "/sys", "/dev", "/usr", "/lib", "/etc/ld.so", "/etc/localtime")
OWN = (*PYTHON, *SYSTEM, f"{ROOT}/revision_jax", f"{ROOT}/tests/faults")


def strangers(log: Path, named: Mapping[int, Sequence[str]]) -> Iterator[tuple[int, str]]:
    """(number of a reading, what it opened beside what it was given).

    Args:
      named: number -> the paths that it was given; all under a directory that was given counts as named, too.
    """
    number = None
    for line in log.read_bytes().decode("utf-8", "surrogateescape").split("\n"):
        if not (found := CALL.match(line)):
            continue
        call, rest = found.groups()
        name = _unescaped(quoted[1]) if (quoted := NAME.search(rest)) else rest
        if edge := EDGE.search(name):
            number = int(edge[1]) if edge[2] == "begin" else None
        elif number is not None and (call in ("execve", "connect") or not _allowed(name, named[number])):
            yield number, f"{call} {name}"


def _allowed(name: str, given: Sequence[str]) -> bool:
    """Whether a path is one of the given ones, below one, or the interpreter's own."""
    name = str(ROOT / name)
    return any(name == path or name.startswith(f"{path}/") for path in given) or name.startswith(OWN)


def _unescaped(text: str) -> str:
    return codecs.escape_decode(text.encode("utf-8", "surrogateescape"))[0].decode("utf-8", "replace")
