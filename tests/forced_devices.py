"""Python in a process of its own, on forced CPU devices: what a test of several devices runs in."""

import os
import subprocess
import sys
from pathlib import Path

import revision_jax

REPO = Path(revision_jax.__file__).parents[1]


def environment(devices: int) -> dict[str, str]:
    """This process's environment, for one that has `devices` CPU devices and compiles as the tests do."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    paths = os.pathsep.join(filter(None, [str(REPO), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip(), "PYTHONPATH": paths}


def run_python(code: str, devices: int, *arguments: object) -> str:
    """What `code` prints; fails with the end of its stderr."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment(devices), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
