"""The machine and the libraries that a measurement was made with."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from revision_jax.text import read_lines

LIBRARIES = ("jax", "flax", "numpy", "av", "h5py", "lmdb", "torch", "transformers", "peft")


def processor() -> str:
    """The processor's name, as Linux tells it."""
    lines = read_lines("/proc/cpuinfo")
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, GiB of memory, and the load of the last minute."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "load": round(os.getloadavg()[0], 2),
    }


def versions(libraries: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Library -> its version; Python's too. One that is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@contextmanager
def same_priority() -> Iterator[None]:
    """This thread is scheduled afterwards as it was before.

    SVT-AV1's encoder makes the thread that opens it a real-time one, where it may (as root). So would be all processes
    that the thread starts later, and nothing else gets its turn on their cores.
    """
    if not hasattr(os, "sched_setscheduler"):  # not Linux
        yield
        return
    policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, param)
