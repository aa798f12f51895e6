"""What a stage of a study is known by, so that it is trained once: a hash of all that decides what it learns."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from revision_jax.config import flatten, resolve_data_dir, resolve_path
from revision_jax.data.builders import shapes_world
from revision_jax.data.builders.base import QUERIES
from revision_jax.data.store.features import MANIFEST
from revision_jax.evaluation.identity import digest
from revision_jax.fingerprints import fingerprint
from revision_jax.training.workdir import FREE

# Fields of `FREE` that decide which of a run's steps is used.
BEST = ("train.keep_best", "train.eval_every", "train.checkpoint_every")
PLACES = ("init.", "base.", "data.dir", "data.mined", "data.mixture")  # they count by what stands there


def stage_key(config: ConfigDict, before: Mapping[str, str]) -> str:
    """sha256 over what a training is made of: fields that matter, pretrained parts, data, and the stages before it.

    Args:
      before: role -> key of a stage that it starts from, or whose answers it learns from.
    """
    return digest(_fields(config), _parts(config), _data(config), dict(before))


def _fields(config: ConfigDict) -> dict[str, Any]:
    """The fields that matter; which weights `train.keep_best` takes depends on when there are some."""
    prefixes = tuple(name for name in FREE if name.endswith("."))
    kept = BEST if config.train.keep_best else ()
    passed_over = lambda key: key.startswith(PLACES) or ((key in FREE or key.startswith(prefixes)) and key not in kept)
    return {key: value for key, value in flatten(config).items() if not passed_over(key)}


def _parts(config: ConfigDict) -> dict[str, str]:
    """Role -> content hash of each pretrained part; of one that is not there yet, its path."""
    paths = {role: resolve_path(path) for role, path in config.base.items() if path}
    return {role: _part_hash(path) if path.exists() else str(path) for role, path in paths.items()}


@functools.cache
def _part_hash(path: Path) -> str:
    """Its content hash, computed once a process: every stage of a study names the same parts."""
    return fingerprint(path)


def _data(config: ConfigDict) -> list:
    """What the train split is: the version of the embedded world, or content hashes; and the mixture's."""
    mixed = [(_split_hash(resolve_path(path)), weight) for path, weight in config.data.mixture]
    own = shapes_world.VERSION if config.data.name == "shapes" else _split_hash(resolve_data_dir(config))
    return [own, mixed]


def _split_hash(folder: Path) -> str:
    """sha256 of a train split's manifest and queries, in a folder or its `train`; its path where there is none."""
    for place in (folder / "train", folder):
        files = [place / name for name in (MANIFEST, QUERIES)]
        if all(file.is_file() for file in files):
            return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return str(folder)


def scoring_key(asked: Mapping[str, Any], config: ConfigDict) -> str:
    """sha256 over how a run is evaluated: what is asked, its search, and the data.

    Args:
      asked: the fields of a `grid.Scoring`.
      config: the last stage's, with what the row changes.
    """
    data = {key: config.data[key] for key in ("dir", "domain", "video_s", "val_videos", "test_videos")}
    return digest(dict(asked), config.search, config.eval, data)
