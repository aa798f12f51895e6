"""A study as configs/ablation.py declares it, and its rows for a seed: every stage with its config, key and folder."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from revision_jax import config as configs
from revision_jax.config import ConfigError
from revision_jax.evaluation.methods import CLIP
from revision_jax.runs.stage import check_stage, stage_of
from revision_jax.search.method import known_methods
from revision_jax.studies.columns import COLUMNS
from revision_jax.studies.keys import digest, scoring_key, stage_key

STAGES = "stages"  # folder of all trained stages, which studies share
MINED = "mined"  # folder in a stage's, of its answers about the train split
ANSWERS = "answers.jsonl"
NO_SCORES = {"eval.after_training": False, "eval.before": False}  # a study evaluates by itself
OWN = ("seed", "stage", "init.dense", "init.sparse", *NO_SCORES)  # fields that a study sets, or its flags do


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How the last stage of a row is evaluated.

    Attributes:
      methods: that are asked, as `evaluate --methods`.
      search: fields of `search` that differ from the stage's config, dotted key -> value.
      data: fields of `data` of another test split of the embedded world, which is made; {} scores the stage's own.
      queries: at most so many are asked; 0 = all.
    """

    methods: tuple[str, ...]
    search: Mapping[str, Any]
    data: Mapping[str, Any]
    queries: int


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a study; `name`, `series`, `point`, `method` and `paper` as configs/ablation.py explains them."""

    name: str
    series: str
    point: str
    method: str
    paper: str
    stages: Sequence[Mapping[str, Any]]
    scoring: Scoring


@dataclasses.dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
      columns, plotted: names of `columns.COLUMNS`.
      line: whether the points of a series are joined.
      paper: what the rows' `paper` is.
      seconds: measured times from which minutes are computed; {} where there are none.
      fields: of the config that were set for all stages, dotted key -> text.
    """

    name: str
    question: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...]
    plotted: tuple[str, ...]
    line: bool
    paper: str
    seconds: Mapping[str, Any]
    fields: Mapping[str, str]

    def sha256(self) -> str:
        """Of everything that was declared and set."""
        return digest(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class Link:
    """A stage of a row for one seed.

    Attributes:
      config: whole, with the folders of its predecessors.
      key: hash of all that decides what is trained, see `keys.stage_key`.
      folder: its work folder.
      mines: the earlier link whose wrong answers about the train split it learns from, or None.
    """

    name: str
    config: FrozenConfigDict
    key: str
    folder: Path
    mines: "Link | None" = None

    @property
    def answers(self) -> Path:
        """Its answers about the train split, where a later link mines them."""
        return self.folder / MINED / ANSWERS


@dataclasses.dataclass(frozen=True)
class Chain:
    """A row for one seed: its links in order, the config that it is scored by, and where the scores go."""

    row: Row
    seed: int
    links: tuple[Link, ...]
    scored_by: FrozenConfigDict
    folder: Path


# ------------------------------------------------------------------------------------------------- reading
def load(spec: str, fields: Mapping[str, str] = {}) -> Study:
    """The study of a config file, checked.

    Args:
      spec: `configs/ablation.py:STUDY`.
      fields: of the config of every stage, dotted key -> text.

    Raises:
      ConfigError: no such study, a row that cannot be read, or a field that a row sets itself.
    """
    declared = configs.derive(spec, {})
    if "rows" not in declared:
        raise ConfigError(f"{spec} is no study but the config of a stage; see configs/ablation.py.")
    rows = tuple(_row(row) for row in declared.rows)
    columns, plotted = tuple(declared.columns), tuple(declared.plotted)
    strangers = [name for name in dict.fromkeys((*columns, *plotted)) if name not in COLUMNS]
    if strangers:
        raise ConfigError(f"{spec} shows {', '.join(strangers)}; expected some of {', '.join(COLUMNS)}.")
    _check_names(spec, rows)
    _check_fields(rows, fields)
    seconds = ConfigDict(declared.seconds).to_dict()
    return Study(declared.name, declared.question, rows, columns, plotted, declared.line, declared.paper, seconds,
                 dict(fields))  # fmt: skip


def _row(given: Mapping[str, Any]) -> Row:
    scoring = Scoring(tuple(given["methods"]), dict(given["search"]), dict(given["data"]), given["queries"])
    if given["method"] not in scoring.methods:
        raise ConfigError(f"row {given['name']!r} shows {given['method']}, which it does not ask: {scoring.methods}.")
    own = {name: given[name] for name in ("name", "series", "point", "method", "paper")}
    return Row(**own, stages=tuple(given["stages"]), scoring=scoring)


def _check_names(spec: str, rows: Sequence[Row]) -> None:
    names = [row.name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not rows:
        raise ConfigError(f"{spec} has {'no rows' if not rows else f'two rows {twice[0]!r}'}; expected a name each.")


def _check_fields(rows: Sequence[Row], fields: Mapping[str, str]) -> None:
    """Refuses fields that would not act, or would undo what a row is about."""
    for key in fields:
        if key in OWN:
            raise ConfigError(f"{key} cannot be set: a study sets it for each stage (seeds: --seeds).")
        for row in rows:
            stages = [name for name, _ in [pair for stage in row.stages for pair in stage["set"]]]
            if key in (*stages, *row.scoring.search, *row.scoring.data):
                raise ConfigError(f"{key} cannot be set: row {row.name!r} is about it; change it in the study's file.")


# ------------------------------------------------------------------------------------------------- a row for a seed
def chain_of(study: Study, row: Row, seed: int, root: Path) -> Chain:
    """The links of a row for a seed.

    Args:
      root: output folder of all studies.

    Raises:
      ConfigError: a stage's config is not valid, names the row and the stage.
    """
    links: list[Link] = []
    for stage in row.stages:
        try:
            links.append(_link(study, stage, seed, links, root))
        except ConfigError as error:
            raise ConfigError(f"study {study.name}, row {row.name!r}, stage {stage['name']!r}: {error}") from error
    last = links[-1]
    try:
        _check_methods(row, last)
        scored_by = configs.finish(last.config, {**row.scoring.search, **row.scoring.data})
        if row.scoring.data and last.config.data.name != "shapes":
            raise ConfigError(f"data.name is {last.config.data.name!r}; expected shapes: its test split is made.")
    except ConfigError as error:
        raise ConfigError(f"study {study.name}, row {row.name!r}, its evaluation: {error}") from error
    folder = last.folder / f"scored-{scoring_key(dataclasses.asdict(row.scoring), scored_by)[:12]}"
    return Chain(row, seed, tuple(links), scored_by, folder)


def _check_methods(row: Row, last: Link) -> None:
    """Raises ConfigError for a method that the run of the last stage does not have."""
    stage = stage_of(last.config)
    if not stage.answers:
        raise ConfigError(f"stage {stage.name!r} answers no search; expected a last stage that does.")
    deepest = 1 + (len(last.config.hierarchy.levels) if "upper" in stage.answers else 0)
    known = [*known_methods(deepest), CLIP]
    strangers = [name for name in row.scoring.methods if name not in known]
    if strangers:
        raise ConfigError(f"it asks {', '.join(strangers)}; its run has {', '.join(known)}.")


def _link(study: Study, stage: Mapping[str, Any], seed: int, before: Sequence[Link], root: Path) -> Link:
    """A stage behind the links before it."""
    values = {**study.fields, **dict(stage["set"]), "seed": seed, **NO_SCORES}
    mines = None
    if stage["mined"]:
        mines = _last(before, stage["mined"])
        values["data.mined"] = str(mines.answers)
    values |= {f"init.{name}": "" for name in ("dense", "sparse")}
    config = _stage_config(stage["config"], tuple(values.items()))
    served = {stage_of(link.config).serves: link for link in before}
    needed = stage_of(config).needs
    lacking = [name for name in needed if name not in served]
    if lacking:
        raise ConfigError(f"it starts from a stage {', '.join(lacking)}; expected one before it in the row.")
    config = configs.finish(config, {f"init.{name}": str(served[name].folder) for name in needed})
    check_stage(config)
    keys = {f"init.{name}": served[name].key for name in needed} | ({"mined": mines.key} if mines else {})
    key = stage_key(config, keys)
    return Link(stage["name"], config, key, root / STAGES / f"{stage_of(config).name}-{key[:12]}", mines)


@functools.lru_cache(maxsize=256)
def _stage_config(spec: str, values: tuple[tuple[str, Any], ...]) -> FrozenConfigDict:
    """A config, read once for all rows that have it."""
    return configs.load(spec, dict(values))


def _last(before: Sequence[Link], name: str) -> Link:
    """The last link of a name."""
    named = [link for link in before if link.name == name]
    if not named:
        raise ConfigError(f"it mines the answers of {name!r}; expected a stage of that name before it in the row.")
    return named[-1]
