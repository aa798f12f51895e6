"""The stages: each puts together the model, data and files of one `Task` for the loop."""

from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.checkpoint import fingerprint
from revision_jax.data.builders.base import QUERIES
from revision_jax.data.features import MANIFEST
from revision_jax.data.pipeline import make_pipeline
from revision_jax.training.datasets import open_split
from revision_jax.training.parts import fingerprints, load_grounder, make_hierarchy, make_prompt_encoder
from revision_jax.training.task import Task


def dense_windows(config: ConfigDict, train_directory: Path, mesh: Mesh) -> Task:
    """Stage 1: the dense grounder on positive and contrastive windows of the train split."""
    grounder, prompts = load_grounder(config, mesh), make_prompt_encoder(config)
    store, queries = open_split(config, train_directory, width=grounder.adapter.kernel.shape[0])
    pipeline = make_pipeline(
        store,
        queries,
        make_hierarchy(config),
        prompts,
        batch_size=config.train.batch_size,
        seed=config.seed,
        neg_factor=config.data.neg_factor,
        near_miss_fraction=config.data.near_miss_fraction,
        questions_per_window=config.data.questions_per_window,
        read_threads=config.data.read_threads,
        prefetch=config.data.prefetch,
    )
    data = {file: train_directory / file for file in (MANIFEST, QUERIES)}
    base = fingerprints(config) | {
        file: {"path": str(path), "sha256": fingerprint(path)} for file, path in data.items()
    }
    return Task(grounder, prompts.prefix, pipeline.batches, pipeline.epoch_batches, pipeline.describe_record, base)
