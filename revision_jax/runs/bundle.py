"""A bundle: one folder that a run can be used from on another machine, by `ground`, `evaluate` and `load_run`.

It is a work folder whose config names everything by a place within it (`bundle:llm`): the pretrained parts, the
parameters that the run is used with, without the optimizer, the predecessors that it starts from, and what evaluations
chose on val. A bundle is read like any run; it cannot be trained further, but a later stage can start from it
(`init.*`). The data stay outside: `data.dir` is empty, and of what the training read beside it only the names are kept.
"""

import itertools
import os
import shutil
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from revision_jax import config as configs
from revision_jax.config import BUNDLED, resolve_path
from revision_jax.fingerprints import fingerprint_trained
from revision_jax.interop.check import CheckError
from revision_jax.interop.lora import is_lora
from revision_jax.runs.budgets import FOLDER as BUDGETS
from revision_jax.runs.calibration import FILE as CALIBRATION
from revision_jax.runs.grounder import fingerprints
from revision_jax.runs.predecessors import predecessors, served_step
from revision_jax.runs.run import Run


def write_bundle(config: ConfigDict, workdir: Path, folder: Path) -> None:
    """Fills `folder` with copies of all that a run needs.

    Args:
      config, workdir: of the run.
    """
    _Bundle(folder).add(config, workdir, folder)


class _Bundle:
    """The copies so far: what two runs share is copied once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.places: dict[Path, Path] = {}

    def add(self, config: ConfigDict, workdir: Path, folder: Path) -> None:
        """Copies a run into a folder of the bundle, and what it names beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        inside = {}
        for role, path in config.base.items():
            if path:
                inside[f"base.{role}"] = self._part(role, resolve_path(path))
        for name in predecessors(config):
            inside[f"init.{name}"] = self._run(name, resolve_path(config.init[name]))
        named = {key: f"{BUNDLED}{os.path.relpath(place, folder)}" for key, place in inside.items()}
        bundled = ConfigDict(config.to_dict())
        bundled.update_from_flattened_dict(named | _without_places(config))
        configs.save_json(bundled, folder / "config.json")
        step = served_step(config, workdir)
        shutil.copytree(
            workdir / "checkpoints" / str(step), folder / "checkpoints" / str(step), dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("optimizer", "iterator"),
        )  # fmt: skip
        for chosen in (CALIBRATION, BUDGETS):
            if (workdir / chosen).exists():
                _copy(workdir / chosen, folder / chosen)

    def _part(self, role: str, source: Path) -> Path:
        """A pretrained part; a file keeps its name, which its hash is made with."""
        source = source.resolve()
        if source not in self.places:
            self.places[source] = self._free(role) if source.is_dir() else self._free(role) / source.name
            _copy(source, self.places[source])
        return self.places[source]

    def _run(self, name: str, source: Path) -> Path:
        """A predecessor: another run, or a published LoRA."""
        source = source.resolve()
        if source not in self.places:
            self.places[source] = place = self._free(name)
            if is_lora(source):
                _copy(source, place)
            else:
                self.add(configs.load_json(source / "config.json"), source, place)
        return self.places[source]

    def _free(self, name: str) -> Path:
        """A folder of this name in the bundle, or with a number where two runs have different parts of one name."""
        taken = {place.relative_to(self.folder).parts[0] for place in self.places.values()}
        names = (f"{name}{number}" for number in itertools.count(2))
        return self.folder / next(free for free in itertools.chain([name], names) if free not in taken)


def _copy(source: Path, place: Path) -> None:
    """Copies a file or a folder; over what a killed export left."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, place, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, place)


def _without_places(config: ConfigDict) -> dict[str, Any]:
    """The fields that name training data outside the bundle, without their folders."""
    mixture = tuple((Path(path).name, weight) for path, weight in config.data.mixture)
    return {"data.dir": "", "data.mined": Path(config.data.mined).name, "data.mixture": mixture}


def check_bundle(run: Run, folder: Path) -> dict[str, str]:
    """Role -> hash of a bundle's parts and of what the run trained, which must be those of the run.

    Raises:
      CheckError: a copy differs.
    """
    there = _hashes(configs.load_json(folder / "config.json"), folder)
    here = _hashes(run.config, run.workdir)
    differing = [role for role in here if there.get(role) != here[role]]
    if differing:
        raise CheckError(f"the copies of {', '.join(differing)} in {folder} differ from the run's; is a file changing?")
    return there


def _hashes(config: ConfigDict, workdir: Path) -> dict[str, str]:
    trained = fingerprint_trained(workdir / "checkpoints", served_step(config, workdir))
    return {role: part["sha256"] for role, part in fingerprints(config).items()} | {"trained": trained}
