"""What a study will take here, computed from counts and measured seconds; computed, not measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from revision_jax.data.builders.shapes import QUERIES_PER_HOUR
from revision_jax.runs.stage import stage_of
from revision_jax.search.method import known_methods
from revision_jax.studies.grid import Chain, Link

USUAL_LEVELS = (48, 16)  # with which a step of the long stage was measured


def training_minutes(link: Link, seconds: Mapping[str, Any]) -> float:
    """Of a training: its steps, and a start; a step of groups takes as long as they have windows."""
    config, stage = link.config, stage_of(link.config)
    groups = 1.0
    if "upper" in stage.answers:
        groups = float(np.mean(config.hierarchy.levels) / np.mean(USUAL_LEVELS))
        groups = (1 + groups) / 2 if "dense" in stage.answers else groups  # variant U: every second batch
    total = seconds["start"] + config.train.steps * seconds["step"][stage.name] * groups
    return (total + (mining_seconds(link.mines, seconds) if link.mines else 0.0)) / 60


def mining_seconds(link: Link, seconds: Mapping[str, Any]) -> float:
    """Of the answers about the train split: about 100 events an hour are asked."""
    data, hours = link.config.data, link.config.data.video_s / 3600
    return seconds["start"] + seconds["query"]["dense"] * data.train_videos * 100 * hours * hours


def scoring_minutes(chain: Chain, seconds: Mapping[str, Any]) -> float:
    """Of an evaluation: the queries of its test split and of val, by every method."""
    config, known = chain.scored_by, known_methods(len(chain.scored_by.hierarchy.levels) + 1)
    depths = [known[name][0] for name in chain.row.scoring.methods if name in known]
    each = sum(seconds["query"]["one pass" if not depth else "dense" if depth == 1 else "upper"] for depth in depths)
    asked = query_hours(config, "test", chain.row.scoring.queries)
    if config.data.groups != "videos":
        asked += query_hours(chain.links[-1].config, "val", 0)
    return (seconds["start"] + each * asked) / 60


def query_hours(config: ConfigDict, split: str, most: int) -> float:
    """Queries of a split of the embedded world times the hours that each looks through.

    Args:
      most: queries that are asked; 0 = all.
    """
    videos, hours = config.data[f"{split}_videos"], config.data.video_s / 3600
    queries = videos * sum(QUERIES_PER_HOUR[split]) * hours
    queries = min(queries, most) if most else queries
    return queries * hours * (videos if config.data.groups == "videos" else 1)


def total_minutes(chains: Sequence[Chain], seconds: Mapping[str, Any]) -> float | None:
    """Of all trainings and evaluations of some rows, each counted once; None without measured seconds."""
    if not seconds:
        return None
    links = {link.key: link for chain in chains for link in chain.links}
    scored = {chain.folder: chain for chain in chains}
    trained = sum(training_minutes(link, seconds) for link in links.values())
    return trained + sum(scoring_minutes(chain, seconds) for chain in scored.values())
