"""The preset `folder`: fields of a config that are chosen by the train split of one's own prepared data.

What is chosen depends on the split and on the fields that a person gives, so that all stages agree and the same command
resumes a run. A field that is given is never changed.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from revision_jax import config as configs
from revision_jax.config import ConfigError, flatten, resolve_data_dir, resolve_path
from revision_jax.data.annotations.table import QueryTable
from revision_jax.data.batches.fitting import Fitting, find_fitting
from revision_jax.data.batches.strategy import Guarded
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.store.manifest import Manifest
from revision_jax.hierarchy import Hierarchy
from revision_jax.prompts import YES, PromptEncoder, PromptTemplate, group_answer, span_answer
from revision_jax.report.table import print_rows
from revision_jax.runs.batches import GROUPS
from revision_jax.runs.splits import open_split, prepare_data
from revision_jax.runs.stage import stage_of
from revision_jax.runs.training import check_files
from revision_jax.tokenizer_files import load_tokenizer

PRESET = "folder"
# Fields that the choice depends on; the others are applied after it.
FIRST = ("data.dir", "data.faults", "base.", "init.", "prompt.system", "hierarchy.window_s", "hierarchy.num_frames")
EVENTS = 4  # a window is so many times as long as nine of ten events
SHORTEST_S = 8.0  # of a window
MOST_FRAMES = 250  # of a window, as in the paper
PAPER_LEVELS = (100, 33)  # windows of a group
FEWEST_WINDOWS = 4  # of a group: up to 3 of its windows show the event
KEEP = (0.9, 0.59)  # shares that upper levels send down
FEWEST_EVENTS = 8  # that fit a window
MOST_EPOCHS = 200
MOST_TOKENS = 160  # of question and answer; a longer query is told before training
LOOKED_AT = 1000  # of the longest sentences, whose tokens are counted
# What a preset of the paper's LLM has otherwise than the shipped one's, whose model has 1 M parameters.
OF_LLM = ("model.dtype", "model.param_dtype", "model.remat", "lora.", "sparse.mlp_width", "sparse.num_heads",
          "sparse.dropout", "prompt.system", "train.learning_rate", "train.warmup_ratio", "train.b2")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Found:
    """What the train split holds.

    longest_s: its longest video, in seconds.
    event_s: the length that nine of ten events do not exceed, in seconds.
    """

    manifest: Manifest
    queries: QueryTable
    durations: Mapping[str, float]
    longest_s: float
    event_s: float

    def fitting(self, window_s: float) -> Fitting:
        return find_fitting(Guarded(self.queries), self.durations, window_s)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One field, its value, and why."""

    field: str
    value: Any
    why: str


def load(spec: str, fields: Iterable[str] | Mapping[str, Any] = ()) -> FrozenConfigDict:
    """As `config.load`; of the preset `folder` with the sizes that its train split asks for, which are printed.

    Args:
      spec: `path.py[:preset]`.
      fields: those that are given, as `config.load` takes them.

    Raises:
      ConfigError: as `config.load`; no data, or too little to be trained on.
    """
    if spec.partition(":")[2] != PRESET:
        return configs.load(spec, fields)
    given = configs.as_mapping(fields)
    config = configs.load(spec, {key: value for key, value in given.items() if key.startswith(FIRST)})
    if not config.data.dir:
        raise ConfigError(
            "data.dir is not given; expected --config.data.dir=DIR, the folder that `python -m revision_jax.prepare "
            "folder --out DIR` made of your videos."
        )
    check_files(config, ("train",))
    chosen = [row for row in choose(config, given) if row.field not in given]
    rows = [[row.field, _short(row.value), row.why] for row in chosen]
    note = "--config.FIELD=VALUE sets another"
    print_rows(f"{spec} for {config.data.dir}", note, ["field", "chosen", "because"], rows)
    return configs.load(spec, {row.field: row.value for row in chosen} | given)


def choose(config: ConfigDict, given: Mapping[str, Any]) -> list[Chosen]:
    """The fields that a train split decides, in the order in which one follows from another.

    Args:
      config: the preset with those fields of `given` that are in `FIRST`.
      given: all fields that a person gives.

    Raises:
      ConfigError: too few events, or videos too short for the stage.
    """
    found = look(config)
    chosen = [Chosen("data.fps", found.manifest.fps, f"of the features, {found.manifest.encoder}")]
    windows, hierarchy = _windows(config, given, found)
    chosen += windows + _negatives(config, found, hierarchy)
    chosen += _levels(config, given, found, hierarchy)
    chosen += _model(config)
    chosen += _tokens(config, found, hierarchy)
    return chosen + _length(config, given, found, hierarchy)


def look(config: ConfigDict) -> Found:
    """The train split of `data.dir`.

    Raises:
      ConfigError: it has no event.
    """
    manifest = FeatureStore(resolve_data_dir(config) / "train").manifest
    config = configs.finish(config, {"data.fps": manifest.fps})
    directory = prepare_data(config, splits=("train",))["train"]  # refuses gaps
    store, queries = open_split(config, directory, manifest.width)
    queries = QueryTable.of(queries)
    times = queries.moments.times
    if not len(times):
        raise ConfigError(
            f"the train split in {directory} has {len(queries)} queries and no event; expected at least "
            f"{FEWEST_EVENTS} with their times (prepare folder --annotations)."
        )
    event_s = float(np.quantile(times[:, 1] - times[:, 0], 0.9))
    return Found(store.manifest, queries, store.durations, max(store.durations.values()), event_s)


def _windows(config: ConfigDict, given: Mapping[str, Any], found: Found) -> tuple[list[Chosen], Hierarchy]:
    """Length and frames of a window."""
    window_s = max(min(float(math.ceil(EVENTS * found.event_s)), math.floor(found.longest_s)), SHORTEST_S)
    why = f"{EVENTS} x {found.event_s:.1f} s, 9 of 10 events' length"
    rows = [Chosen("hierarchy.window_s", window_s, why)]
    if "hierarchy.window_s" in given:
        window_s = config.hierarchy.window_s
    frames = max(min(round(window_s * found.manifest.fps), MOST_FRAMES), 2)
    rows.append(Chosen("hierarchy.num_frames", frames, f"a window's, at most {MOST_FRAMES}"))
    if "hierarchy.num_frames" in given:
        frames = config.hierarchy.num_frames
    geometry = config.hierarchy
    return rows, Hierarchy(window_s, frames, geometry.stride, geometry.upper_stride, (FEWEST_WINDOWS,))


def _negatives(config: ConfigDict, found: Found, hierarchy: Hierarchy) -> list[Chosen]:
    """Where windows without an event come from, when the videos are hardly longer than a window."""
    if found.longest_s >= 2 * hierarchy.window_s or GROUPS in stage_of(config).batches:
        return []
    why = "no video has two windows"
    return [Chosen("data.negatives", (("cross_video", 1.0),), why)]


def _levels(config: ConfigDict, given: Mapping[str, Any], found: Found, hierarchy: Hierarchy) -> list[Chosen]:
    """Sizes of groups at the upper levels, and what a search needs to know of them."""
    upper = len(hierarchy.upper_windows(found.longest_s))
    if upper < FEWEST_WINDOWS and GROUPS in stage_of(config).batches and "hierarchy.levels" not in given:
        raise ConfigError(
            f"the longest video of train, {found.longest_s:.0f} s, has {upper} upper windows of "
            f"{hierarchy.window_s:g} s; expected at least {FEWEST_WINDOWS} for this stage. Videos as short as these "
            "need no upper level: ask the dense run (configs/stage1.py:folder)."
        )
    coarse = min(upper, PAPER_LEVELS[0])
    levels = (coarse, coarse // 3) if coarse // 3 >= FEWEST_WINDOWS else (max(coarse, FEWEST_WINDOWS),)
    why = f"{upper} upper windows in the longest"
    rows = [Chosen("hierarchy.levels", levels, why)]
    if "hierarchy.levels" in given:
        levels = configs.section(config, "hierarchy", {"levels": given["hierarchy.levels"]})["levels"]
    if len(levels) <= len(KEEP):
        rows.append(Chosen("search.keep", KEEP[len(KEEP) - len(levels) :], "the default, a share a level"))
    if GROUPS in stage_of(config).batches:
        rows.append(Chosen("search.depth", 1 + len(levels), "all levels"))
    return rows


def _model(config: ConfigDict) -> list[Chosen]:
    """What another LLM than the shipped one needs: the paper's numbers."""
    if config.base.llm.startswith("asset:"):
        return []
    paper, own = flatten(_paper(config)), flatten(config)
    changed = {key: value for key, value in paper.items() if key.startswith(OF_LLM) and value != own[key]}
    return [Chosen(key, value, "the paper's, for your own LLM") for key, value in changed.items()]


def _paper(config: ConfigDict) -> ConfigDict:
    return configs.load(f"{stage_of(config).config.partition(':')[0]}:mad")


def _tokens(config: ConfigDict, found: Found, hierarchy: Hierarchy) -> list[Chosen]:
    """Room for the longest query, and a quarter more for those of val and test."""
    tokenizer = load_tokenizer(str(resolve_path(config.base.llm)))
    prompts = PromptEncoder(tokenizer, PromptTemplate(config.prompt.system), MOST_TOKENS)
    last = hierarchy.num_frames - 1
    answers = {"dense": span_answer(last, last), "sparse": YES, "group": group_answer(99, 100)}
    sentences = sorted({query.sentence for query in found.queries}, key=len)[-LOOKED_AT:]
    longest = max(
        len(prompts.encode_question(sentence, level)) + len(prompts.encode_answer(answer))
        for sentence in sentences
        for level, answer in answers.items()
    )
    room = min(8 * math.ceil(longest * 1.25 / 8), MOST_TOKENS)
    return [Chosen("prompt.max_text_tokens", room, f"the longest query needs {longest}")]


def _length(config: ConfigDict, given: Mapping[str, Any], found: Found, hierarchy: Hierarchy) -> list[Chosen]:
    """Batch size and epochs: as many rows as the shipped preset learns from, or the paper's epochs.

    Raises:
      ConfigError: too few events.
    """
    fitting, groups = found.fitting(hierarchy.window_s), GROUPS in stage_of(config).batches
    fits = fitting.fits & fitting.room[fitting.moments[:, 0]] if groups else fitting.fits
    events = int(fits.sum())
    if events < FEWEST_EVENTS:
        raise ConfigError(
            f"{events} of the {len(fits)} events of train can be trained on with windows of {hierarchy.window_s:g} s; "
            f"expected at least {FEWEST_EVENTS}. Annotate more events, or set hierarchy.window_s."
        )
    rows = events if groups else 2 * events
    batch = min(config.train.batch_size, 2 ** int(math.log2(rows)))
    wanted = config.train.steps * config.train.batch_size
    epochs = min(math.ceil(wanted / rows), MOST_EPOCHS)
    why = f"about {wanted} rows in all"
    if not config.base.llm.startswith("asset:"):
        epochs, why = _paper(config).train.epochs, "the paper's, for your own LLM"
    chosen = [Chosen("train.batch_size", batch, f"{events} events fit, {rows} rows an epoch")]
    if "train.steps" in given:
        return chosen  # epochs stay 0
    return [*chosen, Chosen("train.epochs", epochs, why), Chosen("train.steps", 0, "epochs count")]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
