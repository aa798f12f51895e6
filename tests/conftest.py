"""What all tests share: compiled programs, and a tiny run for those that need one."""

import atexit
import dataclasses
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

# Most of the suite's time would be spent in compiling the same tiny programs, in subprocesses too. Kept for one
# session only; jax reads these when it is imported.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="revision_jax_compiled_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

sys.path.append(str(Path(__file__).parent / "training"))


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
    from tiny_base import config_of, make_base

    from revision_jax.train import train
    from revision_jax.training.datasets import prepare_data

    folder = tmp_path_factory.mktemp("trained")
    changes = {"data__val_videos": 2, "data__test_videos": 2, "eval__before": True}
    config = config_of(make_base(folder / "base"), folder / "data", **changes)
    metrics = train(config, folder / "runs" / "tiny")
    return TrainedRun(config, folder / "runs" / "tiny", dict(prepare_data(config)), metrics)
