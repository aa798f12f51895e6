"""From a config to its data: where the splits are, made when they can be, checked against the run."""

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.config import ConfigError, resolve_data_dir, resolve_path
from revision_jax.data.annotations.gaps import summarise
from revision_jax.data.annotations.queries import Query, load_queries
from revision_jax.data.batches.captions import LCS_CAPTIONS, LCS_IMAGES, Captions, lcs_captions, shapes_captions
from revision_jax.data.batches.strategy import Negatives, StrategyContext, make_strategy
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.data.builders.base import QUERIES
from revision_jax.data.builders.shapes import prepare_shapes
from revision_jax.data.check import known_gaps, sound_queries
from revision_jax.data.store.features import MANIFEST, FeatureStore
from revision_jax.data.video.extraction import Encoder, identify
from revision_jax.runs.base import make_extractor, make_hierarchy, make_text_extractor, report_missing

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Split:
    """A split's features, and its queries by video (videos without any are left out)."""

    name: str
    store: FeatureStore
    queries: Mapping[str, Sequence[Query]]

    @classmethod
    def of(cls, name: str, store: FeatureStore, queries: Iterable[Query]) -> "Split":
        """Raises ValueError where there are no queries."""
        by_video: dict[str, list[Query]] = {}
        for query in queries:
            by_video.setdefault(query.video_id, []).append(query)
        if not by_video:
            raise ValueError(f"the {name} split in {store.path} has no queries; expected some to score.")
        return cls(name, store, by_video)

    @property
    def all_queries(self) -> list[Query]:
        """In the order in which they are answered."""
        return [query for queries in self.queries.values() for query in queries]

    def thinned(self, count: int) -> "Split":
        """The same with at most `count` of its queries, at even distances, so that kinds keep their shares; 0 = all."""
        every = self.all_queries
        if not 0 < count < len(every):
            return self
        chosen = {every[i * len(every) // count].query_id for i in range(count)}
        some = {video: [query for query in own if query.query_id in chosen] for video, own in self.queries.items()}
        return dataclasses.replace(self, queries={video: own for video, own in some.items() if own})


log = logging.getLogger(__name__)


def splits_of(config: ConfigDict) -> tuple[str, ...]:
    """The splits that a config's data set has."""
    return ("train",) if config.data.name == "lcs" else SPLITS


def missing_data(config: ConfigDict, splits: tuple[str, ...] = SPLITS) -> list[str]:
    """A line on the splits that are missing and cannot be made here, with what is expected of them."""
    folder = resolve_data_dir(config)
    if config.data.name == "lcs":
        lacking = [name for name in (LCS_CAPTIONS, LCS_IMAGES) if not (folder / name).exists()]
        expected = "LCS-558K's captions and images: download liuhaotian/LLaVA-Pretrain and unpack its images.zip"
        return [f"data.dir: no {', '.join(lacking)} under {folder}; expected {expected}"] if lacking else []
    mixed = [path for path, _ in config.data.mixture if _train_split(path) is None] if "train" in splits else []
    faults = [
        f"data.mixture: no {MANIFEST} in {path} or its folder train; expected a train split made by `prepare`"
        for path in mixed
    ]
    missing = [split for split in splits if not (folder / split / MANIFEST).is_file()]
    if config.data.name == "shapes" or not missing:
        return faults
    return faults + [
        f"data.dir: no {', '.join(missing)} under {folder}; expected a data set directory for each split of "
        f"data.name {config.data.name!r}: {MANIFEST}, {QUERIES}, features at {config.data.fps} frames a second as "
        f"ArrayRecord, made by `python -m revision_jax.prepare {config.data.name}` (--help has examples)"
    ]


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
        directories = prepare_shapes(
            folder,
            make_extractor(config, mesh),
            videos=videos,
            duration_s=config.data.video_s,
            domain=config.data.domain,
            on_video=on_video,
        )
        _refuse_gaps(config, directories)
        return directories
    report_missing(missing_data(config, splits))
    if config.data.name == "lcs":
        return {"train": folder}
    _refuse_gaps(config, {split: path for split, path in _siblings(folder / splits[0]).items() if split in splits})
    return {split: folder / split for split in splits}


def other_split(config: ConfigDict, directory: str | Path) -> tuple[str, Path]:
    """A prepared split of any data set for evaluation, `mine-test` of `data/mine/test`: its name and its directory.

    Raises:
      ConfigError: it has gaps, and they are not to be dropped.
    """
    directory = Path(directory)
    _refuse_gaps(config, {directory.name: directory})
    return f"{directory.resolve().parent.name}-{directory.name}", directory


def _siblings(directory: Path) -> dict[str, Path]:
    """The splits beside a split, itself first: a video in two of them is a leak."""
    others = [directory.with_name(split) for split in SPLITS if directory.name in SPLITS and split != directory.name]
    return {path.name: path for path in [directory, *others] if (path / MANIFEST).is_file()}


def _refuse_gaps(config: ConfigDict, splits: Mapping[str, Path]) -> None:
    """Raises ConfigError if the check of the data finds gaps, or has found some, unless they are to be dropped."""
    if config.data.faults == "drop":
        return
    gaps = {split: found for split, found in known_gaps(splits, _encoder(config)).items() if found}
    if gaps:
        listed = [
            f"  {split}: {gap.kind} {gap.video_id} {gap.query_id}: {gap.detail}"
            for split in gaps
            for gap in gaps[split]
        ]
        more = [f"  and {len(listed) - 10} more"] if len(listed) > 10 else []
        places = " ".join(str(splits[split]) for split in gaps)
        raise ConfigError(
            "the data has gaps:\n" + "\n".join(listed[:10] + more) + f"\nSee `python -m revision_jax.prepare check` of "
            f"{places}. Mend them, or leave out what they name: --config.data.faults=drop (`train`), "
            "--data.faults=drop (`evaluate`)"
        )


def _encoder(config: ConfigDict) -> Encoder | None:
    """What the features must be from; None where the config names none."""
    return identify(resolve_path(config.base.encoder), config.data.fps) if config.base.encoder else None


def open_split(
    config: ConfigDict, directory: Path, width: int, *, any_fps: bool = False
) -> tuple[FeatureStore, Sequence[Query]]:
    """The features and queries of a split, checked against what the run expects.

    Args:
      width: `D` of the adapter.
      any_fps: whether the features may be at another frame rate than `data.fps`.

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
    if not any_fps and abs(manifest.fps - config.data.fps) > 1e-6:
        raise ConfigError(
            f"the features in {directory} are at {manifest.fps} frames a second, data.fps is "
            f"{config.data.fps}. Set data.fps to the data's."
        )
    _tell_edited_queries(directory / QUERIES, manifest.queries_sha256)
    if config.data.faults == "refuse":
        return store, load_queries(directory / QUERIES, store.durations)
    gaps = known_gaps(_siblings(directory))[directory.name]
    queries = sound_queries(directory, gaps)
    if gaps:
        log.warning("%s: %s; %d queries are left", directory, summarise(gaps), len(queries))
    return store, queries


def _tell_edited_queries(path: Path, made: str) -> None:
    """Warns of queries that are not those of the data set: by mistake or damage, a score would be of other moments."""
    if made and path.is_file() and (found := hashlib.sha256(path.read_bytes()).hexdigest()) != made:
        log.warning(
            "%s was changed since it was made (sha256 %s, the manifest has %s): what is there now is used. To undo it, "
            "prepare the data again in another directory.", path, found[:12], made[:12],
        )  # fmt: skip


def open_train(config: ConfigDict, directory: Path, width: int) -> list[TrainSplit]:
    """The train split and those of `data.mixture`, with their sources of contrastive windows.

    Args:
      width: `D` of the adapter.
    """
    data, drop = [], config.data.faults == "drop"
    for path, weight in [(directory, 1.0), *config.data.mixture]:
        path = path if isinstance(path, Path) else _train_split(path)
        store, queries = open_split(config, path, width, any_fps=bool(config.data.mixture))
        data.append(TrainSplit(store, queries, _negatives(config, store, queries), float(weight), drop))
    if len(data) > 1:
        log.info("mixes %s", ", ".join(f"{own.store.path} ({own.weight:g})" for own in data))
    return data


def _negatives(config: ConfigDict, store: FeatureStore, queries: Sequence[Query]) -> Negatives:
    """Where contrastive windows come from."""
    extractor = functools.cache(lambda: make_text_extractor(config))  # few strategies need one
    context = StrategyContext(
        store,
        queries,
        make_hierarchy(config),
        encode=lambda sentences: extractor().encode_queries(sentences),
        answers=Path(config.data.mined) if config.data.mined else None,
    )
    return make_strategy(config.data.negatives, context)


def _train_split(path: str) -> Path | None:
    """The data set directory at a path of a config, or the `train` folder in it; None if there is none."""
    folder = resolve_path(path)
    return next((found for found in (folder, folder / "train") if (found / MANIFEST).is_file()), None)


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
