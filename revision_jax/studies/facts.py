"""Where numbers come from: the commit of the code, the machine, the versions."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

from revision_jax.parallel.memory import host_limit
from revision_jax.units import GIB

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
TOP = Path(__file__).parents[2]


def commit(folder: Path = TOP) -> str | None:
    """The commit of a git checkout, ending in `+` where files differ from it; None where there is no checkout."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()).resolve() != folder.resolve():
            return None  # an installed package within somebody else's checkout
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GiB, and the devices."""
    devices = jax.local_devices()
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(host_limit() / GIB, 1),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


def _processor() -> str:
    """Its name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Python and of the libraries that compute."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
