"""Checks prepared splits before a run and lists every gap; the result is kept beside the data, and training reads it.

A quick check looks at files, manifest, annotations and leaks between splits. A deep check also reads all features.
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from revision_jax.data.annotations.gaps import GAPS, Gap, in_order, load_gaps
from revision_jax.data.annotations.queries import Query
from revision_jax.data.annotations.rows import accept, duration_slack
from revision_jax.data.annotations.table import QueryTable, read_table
from revision_jax.data.builders.annotated import QUERY_TOKENS
from revision_jax.data.builders.base import QUERIES, SHARDS
from revision_jax.data.builders.folder import read_queries
from revision_jax.data.store.features import DamagedError, FeatureStore, NotFiniteError
from revision_jax.data.store.manifest import MANIFEST, Manifest
from revision_jax.data.video.extraction import Encoder
from revision_jax.text import read_object

VERDICT = "check.json"
OnVideo = Callable[[str, int, int], None]


def find_splits(directory: str | os.PathLike) -> dict[str, pathlib.Path]:
    """Name -> directory of the splits at a path: the path itself, or the folders in it, also unfinished ones."""
    directory = pathlib.Path(directory)
    looks_so = lambda folder: any((folder / name).exists() for name in (MANIFEST, SHARDS, "parts"))
    if looks_so(directory):
        return {directory.name: directory}
    found = {folder.name: folder for folder in sorted(directory.glob("*/")) if looks_so(folder)}
    if not found:
        raise FileNotFoundError(f"{directory}: no data set here; expected {MANIFEST}, or folders that hold one")
    return found


def check_splits(
    splits: Mapping[str, pathlib.Path],
    *,
    deep: bool = True,
    encoder: Encoder | None = None,
    on_video: OnVideo = lambda split, done, total: None,
) -> dict[str, list[Gap]]:
    """Split -> its gaps, in order.

    Args:
      splits: name -> data set directory.
      deep: also reads all features, and compares them with their checksums.
      encoder: the one that the features must come from; None accepts any, if all splits have the same.
      on_video: called as (split, videos read, videos in all).
    """
    gaps = {split: _check_split(split, directory, deep, on_video) for split, directory in splits.items()}
    manifests = {split: manifest for split, path in splits.items() if (manifest := read_manifest(path)) is not None}
    for split, found in _mixed(manifests, encoder):
        gaps[split].append(found)
    for split, found in _leaks(manifests):
        gaps[split].append(found)
    return {split: in_order(found) for split, found in gaps.items()}


def _check_split(split: str, directory: pathlib.Path, deep: bool, on_video: OnVideo) -> list[Gap]:
    if not (directory / MANIFEST).is_file():
        waits = (directory / SHARDS).exists()
        todo = "run `prepare merge` on it" if waits else "run the same `prepare` again, it continues"
        return [Gap("unfinished", f"{directory}: no {MANIFEST}; {todo}")]
    try:
        manifest = Manifest.load(directory)
    except ValueError as error:
        return [Gap("damaged", str(error))]
    gaps = [Gap("unfinished", f"{directory / SHARDS}: left over; `prepare merge` removes it")] * (
        directory / SHARDS
    ).exists()
    gaps += load_gaps(directory / GAPS)
    gaps += _lengths(manifest) + _check_queries(directory, manifest)[1]
    gaps += _check_features(directory, manifest, lambda *counts: on_video(split, *counts), deep)
    return gaps + _check_tokens(directory / QUERY_TOKENS, deep)


def _check_tokens(directory: pathlib.Path, deep: bool) -> list[Gap]:
    """Gaps of the sentences' stored features, which are stored under query ids as those of videos under video ids."""
    if not directory.exists():
        return []
    if not (directory / MANIFEST).is_file():
        return [Gap("unfinished", f"{directory}: no {MANIFEST}; run the same `prepare`, or `prepare merge`, again")]
    try:
        gaps = [
            *load_gaps(directory / GAPS),
            *_check_features(directory, Manifest.load(directory), lambda *_: None, deep),
        ]
    except ValueError as error:
        return [Gap("damaged", str(error))]
    return [dataclasses.replace(gap, video_id="", query_id=gap.video_id) for gap in gaps]


def read_manifest(directory: pathlib.Path) -> Manifest | None:
    """A split's manifest; None if there is none that can be read."""
    try:
        return Manifest.load(directory)
    except (ValueError, FileNotFoundError):
        return None


def _lengths(manifest: Manifest) -> list[Gap]:
    """Videos whose length is not that of their frames."""
    gaps = []
    for video_id, info in manifest.videos.items():
        lasts_s = info.num_frames / manifest.fps
        if abs(lasts_s - info.duration_s) > duration_slack(lasts_s):
            rate, said = f"{manifest.fps:g} a second", f"{info.duration_s:.10g}"
            detail = f"{info.num_frames} frames at {rate} are {lasts_s:.10g} s, not {said}"
            gaps.append(Gap("duration", detail, video_id))
    return gaps


def clean_queries(path: pathlib.Path, durations: Mapping[str, float]) -> QueryTable | None:
    """A file's queries where nothing is wrong with any of them, or None; durations: seconds by video id."""
    table = read_table(path) if path.is_file() else None
    return table if table is not None and table.inside(durations) and table.plain else None


def _check_queries(directory: pathlib.Path, manifest: Manifest) -> tuple[Sequence[Query], list[Gap]]:
    """The usable queries of a split, and what is wrong with the others."""
    path = directory / QUERIES
    durations = {name: info.duration_s for name, info in manifest.videos.items()}
    if (table := clean_queries(path, durations)) is not None:
        return table, []
    try:
        annotations = read_queries(path)
    except (ValueError, FileNotFoundError) as error:
        return [], [Gap("annotation", str(error))]
    queries, gaps = accept(annotations.rows, durations)
    counts = collections.Counter(row.video_id for row in annotations.rows if row.video_id not in durations)
    gaps += [
        Gap("video missing", f"{count} queries name it, it has no features", video_id)
        for video_id, count in counts.items()
    ]
    return queries, [*annotations.gaps, *gaps]


def _check_features(
    directory: pathlib.Path, manifest: Manifest, on_video: Callable[[int, int], None], deep: bool
) -> list[Gap]:
    gaps = []
    for shard in manifest.shards:
        path = directory / shard.path
        if not path.is_file():
            gaps.append(Gap("damaged", f"{path}: missing, {MANIFEST} lists it"))
        elif (size := path.stat().st_size) != shard.bytes:
            gaps.append(Gap("damaged", f"{path}: has {size} bytes, {MANIFEST} says {shard.bytes}"))
    if gaps:
        return gaps
    try:
        store = FeatureStore(directory)
    except ValueError as error:
        return [Gap("damaged", str(error))]
    for number, video_id in enumerate(store.video_ids if deep else (), 1):
        try:
            store.read_all(video_id)
        except (DamagedError, NotFiniteError) as error:
            kind = "not finite" if isinstance(error, NotFiniteError) else "damaged"
            gaps.append(Gap(kind, str(error), video_id))
        on_video(number, len(store.video_ids))
    return gaps


def _mixed(manifests: Mapping[str, Manifest], encoder: Encoder | None) -> Iterable[tuple[str, Gap]]:
    """Splits whose features are not from the encoder, or not from that of the first split."""
    for split, manifest in manifests.items():
        if encoder is not None:
            expected = encoder.name, encoder.fingerprint, encoder.width, encoder.fps
        else:
            first = next(iter(manifests.values()))
            expected = first.encoder, first.encoder_sha256, first.width, first.fps
        found = manifest.encoder, manifest.encoder_sha256, manifest.width, manifest.fps
        if found[1:] != expected[1:]:
            tell = lambda name, sha256, width, fps: f"{name} ({sha256[:12]}), {width} wide, {fps:g} fps"
            yield split, Gap("encoder", f"features of {tell(*found)}; expected {tell(*expected)}")


def _leaks(manifests: Mapping[str, Manifest]) -> Iterable[tuple[str, Gap]]:
    """Videos that two splits share, by name or by content; the gap is reported for the larger split."""
    splits = sorted(manifests, key=lambda split: -len(manifests[split].videos))
    for number, split in enumerate(splits):
        for other in splits[number + 1 :]:
            contents = {info.sha256: name for name, info in manifests[other].videos.items()}
            for video_id, info in manifests[split].videos.items():
                same = contents.get(info.sha256)
                if same is not None and same != video_id:
                    yield split, Gap("split leak", f"the features of {same!r} in {other}, under another id", video_id)
                elif video_id in manifests[other].videos:
                    yield split, Gap("split leak", f"also in {other}", video_id)


# ------------------------------------------------------------------------------------------------ verdicts
def save_verdict(directory: pathlib.Path, gaps: Iterable[Gap]) -> None:
    """Keeps the gaps of a deep check beside the data, for training."""
    rows = [gap.__dict__ for gap in gaps]
    partial = directory / f"{VERDICT}.tmp"
    partial.write_text(json.dumps({"content": _content(directory), "gaps": rows}, indent=1, ensure_ascii=False))
    os.replace(partial, directory / VERDICT)


def known_gaps(splits: Mapping[str, pathlib.Path], encoder: Encoder | None = None) -> dict[str, list[Gap]]:
    """Split -> the gaps that a quick check finds now, and those of the last deep check of the same files."""
    gaps = check_splits(splits, deep=False, encoder=encoder)
    for split, directory in splits.items():
        path = directory / VERDICT
        verdict = read_object(path) if path.is_file() else {}
        if verdict.get("content") == _content(directory):
            gaps[split] = in_order([*gaps[split], *(Gap(**row) for row in verdict["gaps"])])
    return gaps


def _content(directory: pathlib.Path) -> str:
    """A checksum of the manifest, which holds the features' checksums, and of the queries."""
    total = hashlib.sha256()
    for name in (MANIFEST, QUERIES):
        path = directory / name
        total.update(path.read_bytes() if path.is_file() else b"missing")
    return total.hexdigest()


def sound_queries(directory: pathlib.Path, gaps: Iterable[Gap]) -> QueryTable:
    """The usable queries of a split, without those of the videos and queries that gaps name.

    Raises:
      ValueError: a gap is about the whole split.
    """
    gaps = list(gaps)
    if whole := [gap for gap in gaps if not gap.video_id and gap.kind != "annotation"]:
        raise ValueError(f"{directory}: {whole[0].kind}: {whole[0].detail}")
    queries, _ = _check_queries(directory, Manifest.load(directory))
    videos = {gap.video_id for gap in gaps if not gap.query_id}
    bad = {gap.query_id for gap in gaps if gap.query_id and gap.kind != "duplicate id"}  # the first of two is kept
    return QueryTable.of(query for query in queries if query.video_id not in videos and query.query_id not in bad)
