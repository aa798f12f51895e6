"""The flags of `prepare` -> the builder of a split: its reader, its features, its shard."""

import argparse
import dataclasses
from collections.abc import Collection
from pathlib import Path

from revision_jax.config import resolve_path
from revision_jax.data.annotations.rows import Annotations
from revision_jax.data.builders.annotated import Annotated, Imported, QueryFeatures, VideoFolder
from revision_jax.data.builders.base import FeatureBuilder
from revision_jax.data.builders.datasets import DATA_SETS, Given
from revision_jax.data.builders.folder import find_videos
from revision_jax.data.builders.sources import open_features
from revision_jax.data.video.extraction import Extractor, identify
from revision_jax.interop.encoders import read_encoder_config
from revision_jax.parallel.mesh import make_mesh


def read_annotations(args: argparse.Namespace, keys: Collection[str]) -> Annotations:
    """The rows of a split; `keys` are the ids of the features or video files that there are."""
    data_set = DATA_SETS[args.command]
    flags = {flag.name: getattr(args, flag.name) for flag in data_set.flags}
    return data_set.read(Given(args.annotations, keys, flags))


def make_builder(args: argparse.Namespace) -> Annotated:
    """The builder of a split, or of a shard of it."""
    encoder, directory = resolve_path(args.encoder), Path(args.out) / args.split
    options = {"name": args.command, "shard": args.shard}
    if args.videos is None:
        features = open_features(args.features)
        annotations = read_annotations(args, features.keys())
        return Imported(directory, args.split, identify(encoder, args.fps), annotations, features, **options)
    files, twice = find_videos(args.videos)
    annotations = read_annotations(args, files)
    annotations = dataclasses.replace(annotations, gaps=[*annotations.gaps, *twice])
    # A dry run decodes nothing and needs no encoder in memory.
    if args.dry_run:
        encoder = identify(encoder, args.fps)
    else:
        encoder = Extractor(encoder, args.fps, args.batch, mesh=make_mesh())
    return VideoFolder(directory, args.split, encoder, annotations, files, decoders=args.decoders, **options)


def make_query_builder(args: argparse.Namespace, annotations: Annotations) -> FeatureBuilder | None:
    """The builder of the sentences' token features, if they are given."""
    if not args.query_features:
        return None
    encoder = resolve_path(args.encoder)
    width = read_encoder_config(encoder).token_width
    # A token is a frame of a sentence that plays one a second.
    known = dataclasses.replace(identify(encoder, 1.0), width=width)
    query_ids = {row.query_id for row in annotations.rows}
    features = open_features(args.query_features)
    return QueryFeatures(Path(args.out) / args.split, args.split, known, query_ids, features, shard=args.shard)
