"""Joins the shards of a data set that several processes prepared; every shard is verified first, to the last record."""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Sequence

from revision_jax.data.annotations.gaps import GAPS, in_order, load_gaps, save_gaps
from revision_jax.data.annotations.queries import check_queries, load_queries, save_queries
from revision_jax.data.builders.base import QUERIES, SHARDS, by_video, shard_name
from revision_jax.data.builders.parts import explained
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.store.locations import LOCATIONS, save_locations
from revision_jax.data.store.manifest import MANIFEST, Manifest, Shard
from revision_jax.text import read_object

INFO = "dataset_info.json"  # TFDS's own description


def merge_shards(
    directory: str | os.PathLike, on_video: Callable[[int, int], None] = lambda done, total: None
) -> pathlib.Path:
    """`directory/shards/*` -> the data set that a single run would have made, in `directory`.

    The features are not copied but linked. An interrupted merge is done again by the same call; until the manifest,
    which is written last, is there, nothing takes the directory for a data set.

    Raises:
      FileNotFoundError, ValueError: a shard is missing, unfinished, damaged, or made from something else.
    """
    directory = pathlib.Path(directory)
    if not (directory / MANIFEST).is_file():
        folders = find_shards(directory)
        stores = [FeatureStore(folder) for folder in folders]
        manifest = _joined(folders, [store.manifest for store in stores])
        _verify(stores, on_video)
        with explained(directory / MANIFEST):
            _link(directory, folders, manifest)
            queries = [query for folder in folders for query in load_queries(folder / QUERIES)]
            durations = {name: info.duration_s for name, info in manifest.videos.items()}
            written = save_queries(directory / QUERIES, by_video(check_queries(queries, durations), durations))
            save_gaps(directory / GAPS, in_order(gap for folder in folders for gap in load_gaps(folder / GAPS)))
            _join_locations(directory, folders)
            dataclasses.replace(manifest, queries_sha256=written).save(directory)
    shutil.rmtree(directory / SHARDS, ignore_errors=True)
    return directory


def find_shards(directory: pathlib.Path) -> list[pathlib.Path]:
    """The shards' folders in order; raises if some are missing or unfinished, and says which."""
    found = sorted(path.name for path in (directory / SHARDS).glob("*-of-*"))
    counts = {int(name.rpartition("-")[2]) for name in found}
    if len(counts) != 1:
        expected = "the shards of one run, as `prepare ... --shard i/n` makes them"
        raise FileNotFoundError(f"{directory / SHARDS}: found {found or 'no shards'}; expected {expected}")
    count = counts.pop()
    folders = [directory / SHARDS / shard_name(index, count) for index in range(count)]
    unfinished = [str(index) for index, folder in enumerate(folders) if not (folder / MANIFEST).is_file()]
    if unfinished:
        raise FileNotFoundError(
            f"{directory / SHARDS}: of {count} shards these are missing or unfinished: {', '.join(unfinished)}. Run "
            f"`prepare` again with --shard {unfinished[0]}/{count}"
        )
    return folders


def _joined(folders: Sequence[pathlib.Path], manifests: Sequence[Manifest]) -> Manifest:
    """The manifest of all videos; ValueError if the shards do not belong together."""
    plain = lambda m: {key: value for key, value in m.source.items() if key != "shard"}
    first = manifests[0]
    shards, videos, records = [], {}, 0
    total = sum(len(manifest.shards) for manifest in manifests)
    for folder, manifest in zip(folders, manifests, strict=True):
        for field in ("encoder", "encoder_sha256", "fps", "width", "dtype", "chunk_frames"):
            if getattr(manifest, field) != getattr(first, field):
                found = f"{field} {getattr(manifest, field)!r}, the first shard has {getattr(first, field)!r}"
                raise ValueError(f"{folder}: {found}. Prepare that shard again")
        if plain(manifest) != plain(first):
            raise ValueError(f"{folder}: was made from {plain(manifest)}, the first shard from {plain(first)}")
        if again := set(videos) & set(manifest.videos):
            raise ValueError(f"{folder}: holds {sorted(again)[:3]}, which an earlier shard holds too")
        for name, info in manifest.videos.items():
            videos[name] = dataclasses.replace(info, first_record=info.first_record + records)
        records += sum(shard.records for shard in manifest.shards)
        for shard in manifest.shards:
            stem = shard.path.rpartition("-of-")[0].rpartition("-")[0]
            shards.append(Shard(f"{stem}-{shard_name(len(shards), total)}", shard.records, shard.bytes))
    return dataclasses.replace(first, shards=tuple(shards), videos=videos, source=plain(first))


def _verify(stores: Sequence[FeatureStore], on_video: Callable[[int, int], None]) -> None:
    """Reads every video and compares it with its checksum."""
    total = sum(len(store.video_ids) for store in stores)
    done = 0
    for store in stores:
        for video_id in store.video_ids:
            store.read_all(video_id)
            done += 1
            on_video(done, total)


def _join_locations(directory: pathlib.Path, folders: Sequence[pathlib.Path]) -> None:
    known = [read_object(folder / LOCATIONS) for folder in folders if (folder / LOCATIONS).is_file()]
    if known:
        save_locations(directory, {video_id: path for one in known for video_id, path in one.items()})


def _link(directory: pathlib.Path, folders: Sequence[pathlib.Path], manifest: Manifest) -> None:
    """Puts the shards' files and TFDS's description of them where a single run would."""
    old = [folder / shard.path for folder in folders for shard in Manifest.load(folder).shards]
    for source, shard in zip(old, manifest.shards, strict=True):
        target = directory / shard.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, target)
    info = read_object(old[0].parent / INFO)
    info["splits"][0]["shardLengths"] = [str(shard.records) for shard in manifest.shards]
    info["splits"][0]["numBytes"] = str(sum(shard.bytes for shard in manifest.shards))
    (target.parent / INFO).write_text(json.dumps(info, indent=2))
    shutil.copyfile(old[0].parent / "features.json", target.parent / "features.json")
