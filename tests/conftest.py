"""What all tests share: compiled programs, and tiny runs for those that need some."""

import atexit
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# Most of the suite's time would be spent in compiling the same tiny programs, in subprocesses too. Kept for one
# session only; jax reads these when it is imported.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="revision_jax_compiled_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# Programs of the tests run for milliseconds and compile for seconds: LLVM's optimizations took half of the time.
# `.ci/run` trains the default with all of them before it runs the suite.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if "xla_backend_optimization_level" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()

sys.path += [str(Path(__file__).parent / room) for room in ("runs", "training", "interop", "rehearsal", "slurm")]


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

    from revision_jax.runs.splits import prepare_data
    from revision_jax.train import train

    folder = tmp_path_factory.mktemp("trained")
    changes = {"data__val_videos": 2, "data__test_videos": 2, "eval__before": True}
    # From PyTorch's files: what needs a trained run also shows that these are as good as any.
    config = config_of(to_torch(make_base(folder / "base")), folder / "data", **changes)
    metrics = train(config, folder / "runs" / "tiny")
    return TrainedRun(config, folder / "runs" / "tiny", dict(prepare_data(config)), metrics)


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

    folder = tmp_path_factory.mktemp("chain")
    # As wide as the text tower of CLIP: the sparse adapter reads both.
    make_base(folder / "base", width=16)
    config = lambda spec, **changes: chain_config(spec, folder, **changes)
    dense = config("configs/stage1.py")
    directories = dict(prepare_data(dense))
    for name, stage in (("dense", dense), ("sparse", config("configs/stage1_sparse.py"))):
        train(Run(stage, folder / name), directories)
    return Chain(folder, directories, config)


@pytest.fixture(scope="session")
def long_run(chain):
    """The work folder of a run of stage 2 on the chain's, whose LoRA differs from its dense run's; do not change it."""
    from revision_jax.runs.run import Run
    from revision_jax.runs.training import train

    config = chain.config("configs/stage2.py", train__learning_rate=1e-2, search__depth=3)
    train(Run(config, chain.folder / "long"), chain.directories)
    return chain.folder / "long"


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """Stage directories as others publish them, and the PyTorch base they stand on; do not change them."""
    from tiny_published import publish

    return publish(tmp_path_factory.mktemp("published"))
