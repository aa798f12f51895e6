"""What all tests share: compiled programs, and tiny runs for those that need some."""

import atexit
import dataclasses
import fcntl
import importlib
import importlib.metadata
import importlib.util
import os
import pickle
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Most of the suite's time would be spent in compiling the same tiny programs, in subprocesses too. Kept for one
# session only; jax reads these when it is imported.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="revision_jax_compiled_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# Nothing of a person's own cache is used or written.
if "REVISION_JAX_CACHE" not in os.environ:
    os.environ["REVISION_JAX_CACHE"] = tempfile.mkdtemp(prefix="revision_jax_cache_")
    atexit.register(shutil.rmtree, os.environ["REVISION_JAX_CACHE"], ignore_errors=True)

# Programs of the tests run for milliseconds and compile for seconds: LLVM's optimizations took half of the time, and
# the fusion emitters, where jaxlib still has others, two thirds of the rest. `.ci/run` trains the default with all of
# them before it runs the suite.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()

# What compares with PyTorch, or reads its files, is marked `parity`: files by their `pytestmark`, tests by a fixture.
PARITY_FILE = re.compile(r"^pytestmark = .*pytest\.mark\.parity", re.MULTILINE)
PARITY_FIXTURES = {"torch", "peft", "published"}
PYTORCH = all(importlib.util.find_spec(name) for name in ("torch", "peft"))
NO_PYTORCH = "PyTorch or PEFT is not installed: what is marked `parity` is skipped (pip install torch peft)"

sys.path += [str(Path(__file__).parent / room) for room in ("runs", "training", "interop", "studies")]


def pytest_configure(config):
    if not PYTORCH and os.environ.get("CI"):
        raise pytest.UsageError(f"{NO_PYTORCH}, but never in CI, which the variable CI says this is")


class WithoutPyTorch(pytest.Module):
    """A file marked `parity` where PyTorch is absent: it is not imported."""

    def collect(self):
        pytest.skip(NO_PYTORCH, allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    if not PYTORCH and PARITY_FILE.search(module_path.read_text()):
        return WithoutPyTorch.from_parent(parent, path=module_path)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items):
    for item in items:
        if PARITY_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.parity)
        if not PYTORCH and item.get_closest_marker("parity"):
            item.add_marker(pytest.mark.skip(reason=NO_PYTORCH))


@pytest.fixture(scope="session")
def torch():
    return importlib.import_module("torch")


@pytest.fixture(scope="session")
def peft():
    return importlib.import_module("peft")


def pytest_terminal_summary(terminalreporter):
    """That parity was not tested, and tables of the tests of faults: what they recorded as `told`."""
    if not PYTORCH:
        terminalreporter.write_line(NO_PYTORCH)
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    for report in reports:
        for name, text in report.user_properties:
            if name == "told" and report.when == "call":
                terminalreporter.write_line(text)


@pytest.fixture(scope="session", autouse=True)
def give_freed_memory_back():
    """A worker trains dozens of runs: what is kept for the next step of each would add up."""
    from revision_jax.parallel import memory

    memory.keep_freed_memory = lambda: None


@pytest.fixture(scope="module", autouse=True)
def own_programs():
    """What a file counts or patches does not depend on the files before it."""
    from revision_jax.parallel.programs import forget

    forget()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> tuple[Path, Any]:
    """A folder that one worker fills and all use, and what `make(folder)` returned; the others wait for it."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all workers
    folder, returned = folder / name, folder / f"{name}.pickle"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed
        if not returned.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a try that failed
            folder.mkdir()
            value = pickle.dumps(make(folder))
            returned.write_bytes(value)
        return folder, pickle.loads(returned.read_bytes())


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A finished run on a few minutes of Shapes with random parts; do not change it."""

    config: object
    workdir: Path
    directories: dict
    metrics: dict

    @property
    def video(self) -> Path:
        return next((self.directories["test"] / "videos").iterdir())


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    from tiny_base import config_of, make_base, to_torch

    from revision_jax.parallel.programs import forget
    from revision_jax.runs.splits import prepare_data
    from revision_jax.train import train

    changes = {"data__val_videos": 2, "data__test_videos": 2, "eval__before": True}

    def config_in(folder):
        return config_of(folder / "base", folder / "data", **changes)

    def make(folder):
        # From PyTorch's files, where it is there: what needs a trained run also shows that these are as good as any.
        base = make_base(folder / "base")
        if PYTORCH:
            to_torch(base)
        config = config_in(folder)
        forget()  # what it compiles is counted
        metrics = train(config, folder / "runs" / "tiny")
        return dict(prepare_data(config)), metrics

    folder, (directories, metrics) = made_once(tmp_path_factory, "trained", make)
    return TrainedRun(config_in(folder), folder / "runs" / "tiny", directories, metrics)


@dataclasses.dataclass(frozen=True)
class Chain:
    """Finished runs of the stages dense and sparse, from which the next ones start; do not change them.

    Attributes:
      folder: holds the runs `dense/` and `sparse/`.
      directories: split -> data set directory.
      config: (config file or preset, changes) -> a tiny config that starts from these runs.
    """

    folder: Path
    directories: dict
    config: Callable


@pytest.fixture(scope="session")
def chain(tmp_path_factory):
    from tiny_base import chain_config, make_base

    from revision_jax.runs.run import Run
    from revision_jax.runs.splits import prepare_data
    from revision_jax.runs.training import train

    def make(folder):
        # As wide as the text tower of CLIP: the sparse adapter reads both.
        make_base(folder / "base", width=16)
        dense = chain_config("configs/stage1.py", folder)
        directories = dict(prepare_data(dense))
        for name, stage in (("dense", dense), ("sparse", chain_config("configs/stage1_sparse.py", folder))):
            train(Run(stage, folder / name), directories)
        return directories

    folder, directories = made_once(tmp_path_factory, "chain", make)
    return Chain(folder, directories, lambda spec, **changes: chain_config(spec, folder, **changes))


@pytest.fixture(scope="session")
def long_run(chain, tmp_path_factory):
    """The work folder of a run of stage 2 on the chain's, whose LoRA differs from its dense run's; do not change it."""
    from revision_jax.runs.run import Run
    from revision_jax.runs.training import train

    def make(folder):
        # Videos of tests are short: a share of their windows is what it says only without a least number.
        config = chain.config("configs/stage2.py", train__learning_rate=1e-2, search__depth=3, search__least=1)
        train(Run(config, folder), chain.directories)

    return made_once(tmp_path_factory, "chain/long", make)[0]


@pytest.fixture(scope="session")
def evaluated_long(long_run, tmp_path_factory):
    """A copy of the long run that was evaluated by every method, and its metrics; do not change it."""
    from revision_jax.evaluation.evaluate import evaluate
    from revision_jax.runs.run import Run

    make = lambda folder: evaluate(Run.load(shutil.copytree(long_run, folder / "run")))
    folder, metrics = made_once(tmp_path_factory, "evaluated", make)
    return folder / "run", metrics


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Stage directories as others publish them, and the PyTorch base they stand on; do not change them."""
    from tiny_published import publish

    return publish(tmp_path_factory.mktemp("published"))
