"""A process that has imported everything, and forks a child for each call of a verb: the imports are paid once.

`python tests/faults/server.py` reads a request a line and answers each by a line, both JSON, see `Server`. Nothing is
computed before the fork, so that no thread is lost by it.
"""

import contextlib
import dataclasses
import importlib
import json
import logging
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_IMPORTED = ("revision_jax.benchmarks", "revision_jax.pretrain")
MORE = ("av", "torch", "optax", "grain", "matplotlib.figure", "tensorboardX", "safetensors.torch", "transformers")
TRACEBACK = "Traceback (most recent call last)"


@dataclasses.dataclass(frozen=True)
class Done:
    """How a call ended.

    Attributes:
      code: exit code; negative: the signal that ended it.
      seconds: that it ran.
      out, err: what it printed.
      hung: whether it was ended at its time limit.
    """

    code: int
    seconds: float
    out: str
    err: str
    hung: bool = False


class Server:
    """The process, from the side that asks; a context manager.

    Args:
      environment: variables that it has beside this process's.
      traced: file into which `strace` writes what it, its children and their threads open, start and connect to.
    """

    def __init__(self, environment: dict[str, str] | None = None, traced: Path | None = None):
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | (environment or {})
        calls = "trace=open,openat,openat2,creat,execve,connect"
        strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-s", "9000", "-e", calls, "-e", "signal=none", "-o", traced]
        command = [*(strace if traced else ()), sys.executable, "-W", "ignore", __file__]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)

    def __call__(self, target: str, *argv: str, limit_s: float = 120) -> Done:
        """Calls `target`, "module:function", with a list of arguments, in a child.

        Args:
          limit_s: after which a child counts as hung.
        """
        request = {"target": target, "argv": argv, "limit_s": limit_s}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Done(**json.loads(self._process.stdout.readline()))

    def verb(self, name: str, *argv: str, **how) -> Done:
        """Calls a verb."""
        return self(f"revision_jax.{name}:main", *map(str, argv), **how)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self._process.stdin.close()
        self._process.wait()


# ------------------------------------------------------------------------------------------------- in the process
def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import revision_jax

    names = [module.name for module in pkgutil.walk_packages(revision_jax.__path__, "revision_jax.")]
    for name in (*MORE, *(name for name in names if not name.startswith(NOT_IMPORTED))):
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)


def _answer(request: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _child(request, Path(folder))
        code, hung = _wait(child, request["limit_s"])
        read = lambda name: (Path(folder) / name).read_text(errors="replace") if (Path(folder) / name).exists() else ""
        return {
            "code": code, "seconds": time.monotonic() - started, "out": read("out"), "err": read("err"), "hung": hung,
        }  # fmt: skip


def _wait(child: int, limit_s: float) -> tuple[int, bool]:
    """(exit code, whether it was ended at the limit)."""
    pidfd = os.pidfd_open(child)
    ended, _, _ = select.select([pidfd], [], [], limit_s)
    os.close(pidfd)
    if not ended:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), not ended


def _child(request: dict, folder: Path) -> None:
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    logging.root.handlers.clear()  # a verb makes its own
    code = 1
    try:
        module, _, name = request["target"].partition(":")
        code = getattr(importlib.import_module(module), name)(request["argv"]) or 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve()
