"""A tiny run, trained and evaluated once for all tests that need one."""

import dataclasses
import sys
from pathlib import Path

import pytest

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
