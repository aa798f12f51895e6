"""The stages: each puts together the model, data and files of one `Task` for the loop."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.checkpoint import fingerprint
from revision_jax.data.annotations.queries import Query
from revision_jax.data.batches.captions import caption_stream
from revision_jax.data.batches.clips import ClipKind, clip_stream
from revision_jax.data.batches.groups import GroupKind, group_streams
from revision_jax.data.batches.load_group import LoadGroup
from revision_jax.data.batches.presence import presence_stream
from revision_jax.data.batches.query_tokens import QueryTokens, StoredQueryTokens
from revision_jax.data.batches.streams import Batching, Stream, join
from revision_jax.data.batches.train_split import TrainSplit
from revision_jax.data.builders.annotated import QUERY_TOKENS
from revision_jax.data.builders.base import QUERIES
from revision_jax.data.store.features import MANIFEST, FeatureStore
from revision_jax.parallel.mesh import host_shard, local_mesh
from revision_jax.prompts import PromptEncoder
from revision_jax.runs.grounder import fingerprints, load_grounder, make_hierarchy, make_prompt_encoder
from revision_jax.runs.splits import make_extractor, open_captions, open_train
from revision_jax.training.task import Task


def make_task(config: ConfigDict, train_directory: Path, mesh: Mesh) -> Task:
    """The task of the config's stage on the train split."""
    return STAGES[config.stage](config, train_directory, mesh)


def frame_captions(config: ConfigDict, train_directory: Path, mesh: Mesh) -> Task:
    """Align: the dense adapter on captions of single frames."""
    grounder, prompts = load_grounder(config, mesh), make_prompt_encoder(config)
    source = open_captions(config, train_directory, "train", grounder.visual_width)
    stream = caption_stream(source, prompts, _batching(config, mesh))
    return _task(config, grounder, prompts, [[stream]], source.files)


def dense_windows(config: ConfigDict, train_directory: Path, mesh: Mesh) -> Task:
    """Stage 1: the dense grounder on positive and contrastive windows of the train split."""
    grounder, prompts = load_grounder(config, mesh), make_prompt_encoder(config)
    data = open_train(config, train_directory, mesh, width=grounder.visual_width)
    stream = _dense_stream(config, data, prompts, _batching(config, mesh))
    return _task(config, grounder, prompts, [[stream]], _files(data))


def present_windows(config: ConfigDict, train_directory: Path, mesh: Mesh) -> Task:
    """Stage 1 sparse: the sparse adapter on the windows of stage 1, each asked whether the event happens in it."""
    grounder, prompts = load_grounder(config, mesh), make_prompt_encoder(config)
    data = open_train(config, train_directory, mesh, width=grounder.visual_width)
    kind = ClipKind(config.data.neg_factor, config.data.near_miss_fraction)
    stream = presence_stream(_with_loaders(config, data, prompts, mesh), kind, _batching(config, mesh))
    return _task(config, grounder, prompts, [[stream]], _files(data))


def long_groups(config: ConfigDict, train_directory: Path, mesh: Mesh) -> Task:
    """Stage 2: a second LoRA on groups of windows, the sizes in turn batch by batch."""
    grounder, prompts = load_grounder(config, mesh), make_prompt_encoder(config)
    data = open_train(config, train_directory, mesh, width=grounder.visual_width)
    batching = _batching(config, mesh, places=len(config.hierarchy.levels))
    groups = _group_streams(config, _with_loaders(config, data, prompts, mesh), batching)
    return _task(config, grounder, prompts, [groups], _files(data))


def all_levels(config: ConfigDict, train_directory: Path, mesh: Mesh) -> Task:
    """Variant U: one LoRA for all levels; batches of dense windows and of groups alternate."""
    grounder, prompts = load_grounder(config, mesh), make_prompt_encoder(config)
    data = open_train(config, train_directory, mesh, width=grounder.visual_width)
    batching = _batching(config, mesh, places=1 + len(config.hierarchy.levels))
    dense = _dense_stream(config, data, prompts, batching)
    batching = dataclasses.replace(batching, place=1)
    groups = _group_streams(config, _with_loaders(config, data, prompts, mesh), batching)
    return _task(config, grounder, prompts, [[dense], groups], _files(data))


STAGES = {
    "align": frame_captions,
    "dense": dense_windows,
    "sparse": present_windows,
    "long": long_groups,
    "unified": all_levels,
}


def make_loader(
    config: ConfigDict, store: FeatureStore, queries: Iterable[Query], prompts: PromptEncoder, mesh: Mesh
) -> LoadGroup:
    """Reads groups of a split's windows; the sentences' features are the data set's own, or encoded now."""
    sentences = {query.query_id: query.sentence for query in queries}
    if (store.path / QUERY_TOKENS).exists():
        ids = {sentence: query_id for query_id, sentence in sentences.items()}
        tokens = StoredQueryTokens(FeatureStore(store.path / QUERY_TOKENS), ids, config.prompt.query_tokens)
    else:
        tokens = QueryTokens(make_extractor(config, local_mesh(mesh)), sentences.values(), config.prompt.query_tokens)
    return LoadGroup(store, make_hierarchy(config), prompts, sentences, tokens)


def _with_loaders(config, data: Iterable[TrainSplit], prompts, mesh) -> list[tuple[LoadGroup, TrainSplit]]:
    return [(make_loader(config, own.store, own.queries, prompts, mesh), own) for own in data]


def _batching(config: ConfigDict, mesh: Mesh, places: int = 1) -> Batching:
    """The batches of the first of `places` streams, of which this host reads its part."""
    shard = host_shard(mesh, config.train.batch_size)
    return Batching(config.train.batch_size, config.seed, shard=shard, places=places)


def _dense_stream(config: ConfigDict, data: list[TrainSplit], prompts: PromptEncoder, batching: Batching) -> Stream:
    kind = ClipKind(config.data.neg_factor, config.data.near_miss_fraction, config.data.questions_per_window)
    return clip_stream(data, make_hierarchy(config), prompts, kind, batching)


def _group_streams(config: ConfigDict, parts: list[tuple[LoadGroup, TrainSplit]], batching: Batching) -> list[Stream]:
    kind = GroupKind(config.data.groups, config.data.group_copies, config.data.group_near_misses)
    return group_streams(parts, config.hierarchy.levels, kind, batching)


def _files(data: Iterable[TrainSplit]) -> list[Path]:
    """What the content of data set directories is known by."""
    return [own.store.path / name for own in data for name in (MANIFEST, QUERIES)]


def _task(config, grounder, prompts, kinds: list[list[Stream]], files: Iterable[Path]) -> Task:
    pipeline = join(kinds, read_threads=config.data.read_threads, prefetch=config.data.prefetch)
    data: dict[str, dict[str, str]] = {}
    for path in files:  # of a mixture, the first split goes by its files' names
        role = str(path) if path.name in data else path.name
        data[role] = {"path": str(path), "sha256": fingerprint(path)}
    return Task(
        grounder,
        prompts.prefix,
        pipeline.batches,
        pipeline.epoch_batches,
        pipeline.describe_record,
        fingerprints(config) | data,
    )
