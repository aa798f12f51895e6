"""Makes `fake_run` and `tiny_base` importable here and, by path, in subprocesses."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Directory of tiny random pretrained parts; do not change it."""
    from tiny_base import make_base

    return make_base(tmp_path_factory.mktemp("base"))


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

    from revision_jax.parallel.mesh import make_mesh
    from revision_jax.training import loop
    from revision_jax.training.datasets import prepare_data
    from revision_jax.training.stages import make_task

    folder = tmp_path_factory.mktemp("chain")
    # As wide as the text tower of CLIP: the sparse adapter reads both.
    make_base(folder / "base", width=16)
    config = lambda spec, **changes: chain_config(spec, folder, **changes)
    dense = config("configs/stage1.py")
    directories = dict(prepare_data(dense))
    for name, stage in (("dense", dense), ("sparse", config("configs/stage1_sparse.py"))):
        loop.run(stage, folder / name, make_task(stage, directories["train"], make_mesh(**stage.mesh)))
    return Chain(folder, directories, config)
