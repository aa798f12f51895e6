"""Builders of splits from annotations of any reader, and features that somebody else made or video files.

annotations (datasets.py)  x  features (sources.py) or videos  ->  split
"""

import hashlib
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.annotations.queries import Query
from revision_jax.data.annotations.rows import Annotations, accept, duration_slack
from revision_jax.data.builders.base import FeatureBuilder
from revision_jax.data.builders.sources import FeatureSource
from revision_jax.data.store.features import first_non_finite
from revision_jax.data.video.extraction import Encoder, Extractor, VideoFeatures
from revision_jax.data.video.many_videos import encode_videos

QUERY_TOKENS = "query_tokens"  # folder of the sentences' features in a data set directory


class Annotated(FeatureBuilder, skip_registration=True):
    """A split whose queries come from a reader.

    Args:
      directory, split, encoder, shard: as `FeatureBuilder`.
      annotations: rows of the split.
      name: of the data set, for the manifest.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        split: str,
        encoder: Encoder,
        annotations: Annotations,
        *,
        name: str,
        shard: tuple[int, int] = (0, 1),
    ):
        self.annotations, self.dataset = annotations, name
        super().__init__(directory, split, encoder, shard=shard)

    def video_ids(self) -> list[str]:
        return sorted(self.annotations.video_ids)

    def annotate(self, durations: Mapping[str, float]) -> tuple[list[Query], list[Gap]]:
        queries, gaps = accept(self.annotations.rows, durations)
        unreadable = (
            self.annotations.gaps if self.shard[0] == 0 else ()
        )  # they belong to no video: the first shard reports them
        return queries, [*unreadable, *gaps]

    def source(self) -> dict:
        rows = hashlib.sha256(repr((self.annotations.rows, self.annotations.gaps)).encode()).hexdigest()
        about = {"name": self.dataset, "split": self.split, "annotations": rows}
        return about | ({"notes": list(self.annotations.notes)} if self.annotations.notes else {})


class Imported(Annotated):
    """Features that somebody else extracted: every annotated video, under its id; options as `Annotated`."""

    def __init__(
        self,
        directory: str | os.PathLike,
        split: str,
        encoder: Encoder,
        annotations: Annotations,
        features: FeatureSource,
        **options: Any,
    ):
        self.features = features
        self.lengths = {row.video_id: row.duration_s for row in annotations.rows if row.duration_s}
        super().__init__(directory, split, encoder, annotations, **options)

    def source(self) -> dict:
        return super().source() | {"features": self.features.identity()}

    def extract(self, video_ids: list[str]) -> Iterator[tuple[str, VideoFeatures | Gap]]:
        there = set(self.features.keys())
        for video_id in video_ids:
            if video_id in there:
                yield video_id, self._read(video_id)
            else:
                yield video_id, Gap("video missing", f"annotated, not among {len(there)} features", video_id)

    def _read(self, video_id: str) -> VideoFeatures | Gap:
        features = read_features(self.features, video_id, self.encoder)
        if isinstance(features, Gap):
            return features
        lasts_s = len(features) / self.encoder.fps
        said = self.lengths.get(video_id, lasts_s)
        # The annotated length where the frames bear it out: the last frame stands for up to 1 / fps s.
        duration_s = said if abs(said - lasts_s) <= duration_slack(lasts_s) else lasts_s
        return VideoFeatures(features, duration_s, self.encoder.fps)


class VideoFolder(Annotated):
    """Video files, encoded here; files that no row names are taken too. Options as `Annotated`.

    Args:
      encoder: an `Extractor`; to look for gaps alone, an `Encoder` does.
      files: video id -> file.
      decoders: threads that decode, a file each.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        split: str,
        encoder: Encoder | Extractor,
        annotations: Annotations,
        files: Mapping[str, os.PathLike],
        *,
        decoders: int = 1,
        **options: Any,
    ):
        self.files = {name: pathlib.Path(file) for name, file in files.items()}
        self.decoders = decoders
        super().__init__(directory, split, encoder, annotations, **options)

    def video_ids(self) -> list[str]:
        return sorted({*self.annotations.video_ids, *self.files})

    def source(self) -> dict:
        sizes = sorted((name, self.token(name)) for name in self.files)
        return super().source() | {"videos": len(sizes), "files": hashlib.sha256(repr(sizes).encode()).hexdigest()}

    def token(self, video_id: str) -> str:
        return str(self.files[video_id].stat().st_size) if video_id in self.files else "missing"

    def extract(self, video_ids: list[str]) -> Iterator[tuple[str, VideoFeatures | Gap]]:
        for video_id in video_ids:
            if video_id not in self.files:
                yield video_id, Gap("video missing", f"annotated, not among {len(self.files)} files", video_id)
        files = [(video_id, self.files[video_id]) for video_id in video_ids if video_id in self.files]
        yield from encode_videos(self.encoder, files, decoders=self.decoders)

    def video_files(self) -> Mapping[str, pathlib.Path]:
        return {video_id: self.files[video_id] for video_id in self._own_ids() if video_id in self.files}


class QueryFeatures(FeatureBuilder, skip_registration=True):
    """CLIP's token features of sentences, made by somebody else: `[Lq, D]` a query id, stored as videos are."""

    chunk_frames = 16  # tokens a record: a sentence is short

    def __init__(
        self,
        directory: str | os.PathLike,
        split: str,
        encoder: Encoder,
        query_ids: Collection[str],
        features: FeatureSource,
        *,
        shard: tuple[int, int] = (0, 1),
    ):
        self.query_ids, self.features = list(query_ids), features
        super().__init__(pathlib.Path(directory) / QUERY_TOKENS, split, encoder, shard=shard)

    def video_ids(self) -> list[str]:
        return sorted(self.query_ids)

    def annotate(self, durations: Mapping[str, float]) -> tuple[list[Query], list[Gap]]:
        return [], []

    def source(self) -> dict:
        return {"name": QUERY_TOKENS, "split": self.split, "features": self.features.identity()}

    def extract(self, video_ids: list[str]) -> Iterator[tuple[str, VideoFeatures | Gap]]:
        there = set(self.features.keys())
        for query_id in video_ids:
            if query_id not in there:
                yield query_id, Gap("video missing", "the query has no token features", query_id)
                continue
            features = read_features(self.features, query_id, self.encoder)
            if isinstance(features, Gap):
                yield query_id, features
            else:
                yield query_id, VideoFeatures(features, len(features) / self.encoder.fps, self.encoder.fps)


def read_features(source: FeatureSource, key: str, encoder: Encoder) -> np.ndarray | Gap:
    """One entry of a source as float16 `[N, D]`, or the gap that says what is wrong with it."""
    try:
        features = source.read(key)
    except ValueError as error:
        return Gap("damaged", str(error), key)
    if features.shape[1] != encoder.width:
        detail = f"{features.shape[1]} wide, {encoder.name} gives {encoder.width}; another encoder made them"
        return Gap("encoder", detail, key)
    with np.errstate(over="ignore"):  # what does not fit into float16 is found below
        features = features.astype(np.float16)
    if (bad := first_non_finite(features)) is not None:
        return Gap("not finite", f"NaN, infinity or beyond float16 at row {bad} of {len(features)}", key)
    return features
