"""From a config to its data: where the splits are, made when they can be, checked against the run."""

from collections.abc import Callable, Mapping
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.config import ConfigError, resolve_data_dir, resolve_path
from revision_jax.data.builders.base import QUERIES
from revision_jax.data.builders.shapes import prepare_shapes
from revision_jax.data.captions import LCS_CAPTIONS, LCS_IMAGES, Captions, lcs_captions, shapes_captions
from revision_jax.data.extraction import Extractor
from revision_jax.data.features import MANIFEST, FeatureStore
from revision_jax.data.moments import Query, load_queries
from revision_jax.training.parts import check_base, missing_base, report_missing
from revision_jax.training.predecessors import missing_predecessors

SPLITS = ("train", "val", "test")


def make_extractor(config: ConfigDict, mesh: Mesh | None = None) -> Extractor:
    """`base.clip` at the data's frame rate: what made the features also reads a user's own video."""
    check_base(config)
    return Extractor(resolve_path(config.base.clip), config.data.fps, mesh=mesh)


def missing_data(config: ConfigDict, splits: tuple[str, ...] = SPLITS) -> list[str]:
    """A line on the splits that are missing and cannot be made here, with what is expected of them."""
    folder = resolve_data_dir(config)
    if config.data.name == "lcs":
        lacking = [name for name in (LCS_CAPTIONS, LCS_IMAGES) if not (folder / name).exists()]
        expected = "LCS-558K's captions and images: download liuhaotian/LLaVA-Pretrain and unpack its images.zip"
        return [f"data.dir: no {', '.join(lacking)} under {folder}; expected {expected}"] if lacking else []
    missing = [split for split in splits if not (folder / split / MANIFEST).is_file()]
    if config.data.name == "shapes" or not missing:
        return []
    return [
        f"data.dir: no {', '.join(missing)} under {folder}; expected a data set directory for each split of "
        f"data.name {config.data.name!r}: {MANIFEST}, {QUERIES}, features at {config.data.fps} frames a second as "
        "ArrayRecord, made by a revision_jax.data.builders.base.FeatureBuilder of your features"
    ]


def check_files(config: ConfigDict) -> None:
    """Raises ConfigError that lists all files a run needs and does not find, and how they are made."""
    report_missing(missing_base(config) + missing_predecessors(config) + missing_data(config))


def prepare_data(
    config: ConfigDict,
    mesh: Mesh | None = None,
    *,
    splits: tuple[str, ...] = SPLITS,
    on_video: Callable[[str, int, int], None] = lambda split, done, total: None,
) -> Mapping[str, Path]:
    """Split -> its data set directory. `shapes` is made when missing; other data must be there.

    Raises:
      ConfigError: splits that are missing, with what is expected there.
    """
    folder = resolve_data_dir(config)
    if config.data.name == "shapes":
        videos = {split: config.data[f"{split}_videos"] for split in splits}
        return prepare_shapes(
            folder,
            make_extractor(config, mesh),
            videos=videos,
            duration_s=config.data.video_s,
            domain=config.data.domain,
            on_video=on_video,
        )
    report_missing(missing_data(config, splits))
    if config.data.name == "lcs":
        return {"train": folder}
    return {split: folder / split for split in splits}


def open_split(config: ConfigDict, directory: Path, width: int) -> tuple[FeatureStore, list[Query]]:
    """The features and queries of a split, checked against what the run expects.

    Args:
      width: `D` of the adapter.

    Raises:
      ConfigError: features of another width or frame rate.
    """
    store = FeatureStore(directory)
    manifest = store.manifest
    if manifest.width != width:
        raise ConfigError(
            f"the features in {directory} are {manifest.width} wide (encoder {manifest.encoder}); "
            f"base.projector expects {width}. Use the projector of that encoder, or its encoder's features."
        )
    if abs(manifest.fps - config.data.fps) > 1e-6:
        raise ConfigError(
            f"the features in {directory} are at {manifest.fps} frames a second, data.fps is "
            f"{config.data.fps}. Set data.fps to the data's."
        )
    return store, load_queries(directory / QUERIES, store.durations)


def open_captions(config: ConfigDict, directory: Path, split: str, width: int) -> Captions:
    """The captions of a split for the align stage, their features checked against the run.

    Args:
      width: `D` of the adapter.

    Raises:
      ConfigError: features of another width.
    """
    if config.data.name == "lcs":
        captions = lcs_captions(directory, make_extractor(config))
    else:
        captions = shapes_captions(directory, split)
    found = len(captions.read(0))
    if found != width:
        raise ConfigError(f"the features in {directory} are {found} wide; the projector expects {width}.")
    return captions
