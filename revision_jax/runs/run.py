"""A run: a config, its work folder or none, and a mesh; what is made of them is made here, once.

`load_run("runs/stage2-tiny").ground("film.mp4", "a red ball")` is the public Python API.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from revision_jax import config as configs
from revision_jax.config import ConfigError
from revision_jax.data.batches.query_tokens import query_tokens
from revision_jax.data.video.extraction import Extractor, VideoFeatures
from revision_jax.data.video.feature_cache import FeatureCache
from revision_jax.hierarchy import Hierarchy
from revision_jax.models.grounder import Grounder
from revision_jax.parallel.mesh import make_mesh
from revision_jax.prompts import PromptEncoder
from revision_jax.quoting import quoted
from revision_jax.rules import check_local
from revision_jax.runs import budgets, calibration
from revision_jax.runs.base import make_extractor, make_hierarchy, make_prompts
from revision_jax.runs.batches import frames_see_query
from revision_jax.runs.grounder import abstract_grounder, fingerprints, fresh_grounder, restore_trained
from revision_jax.runs.predecessors import is_run, missing_predecessors, predecessors, served_step
from revision_jax.runs.splits import Split, open_split, prepare_data
from revision_jax.runs.stage import Stage, check_stage, makers, stage_of
from revision_jax.search.memory import Memory
from revision_jax.search.method import policy_at
from revision_jax.search.models import Models
from revision_jax.search.policies import find_policy
from revision_jax.search.result import Result, Searched
from revision_jax.search.searcher import Searcher
from revision_jax.search.sentences import Sentences
from revision_jax.search.settings import SearchSettings
from revision_jax.training.state import split_by_table, take_apart

log = logging.getLogger(__name__)
State = Literal["fresh", "trained", "abstract"]
SERVED = ("mesh.", "model.attention", "search.", "eval.", "data.faults")  # fields that may differ where a run is used


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a stage.

    Attributes:
      config: as `config.load` gives it.
      workdir: its work folder; None for a run that leaves no files.
      mesh: the devices; by default those of `config.mesh`.
      made: grounders that are in memory already, by state; a training gives them to the evaluation behind it.
      budget: the one that chose `config.search`'s windows; None: it is as it was set.
    """

    config: FrozenConfigDict
    workdir: Path | None = None
    mesh: jax.sharding.Mesh | None = None
    made: Mapping[State, Grounder] = dataclasses.field(default_factory=dict)
    budget: float | None = None

    def __post_init__(self):
        check_local("the work folder", self.workdir)
        check_stage(self.config)
        if self.workdir is not None:
            object.__setattr__(self, "workdir", Path(self.workdir))
        if self.mesh is None:
            object.__setattr__(self, "mesh", make_mesh(**self.config.mesh))

    @classmethod
    def load(
        cls, workdir: str | Path, changes: Mapping[str, Any] | Iterable[str] = (), *, devices: Sequence | None = None
    ) -> "Run":
        """A run that was trained, to be used on the devices that are there.

        Args:
          changes: fields that differ from its training, some of `SERVED`: `{"search.depth": 3}` or "search.depth=3".
            A depth alone, at which the run's policy does not search, is searched by `top_down`. Shares alone
            (`search.keep`) hold for videos of any length, without the run's least number of windows.
          devices: default: all of this process. Where `changes` name an axis of the mesh, `data` takes the rest of
            them; else the axes of the run's mesh stay where they fit, or all devices are on its `data` axis.

        Raises:
          ConfigError: there is no trained run, or a field that cannot be changed any more.
        """
        check_local("the work folder", workdir)
        workdir = Path(workdir)
        if not is_run(workdir):
            raise ConfigError(f"{workdir} holds no trained run (config.json and checkpoints/); {HOW_TO_TRAIN}.")
        changes = configs.as_mapping(changes)
        for key in changes:
            if not key.startswith(SERVED):
                raise ConfigError(f"{key} cannot be changed after training; expected one of {', '.join(SERVED)}.")
        config = configs.load_json(workdir / "config.json", changes)
        implied = {}
        if "search.depth" in changes:
            implied["search.policy"] = policy_at(config.search.depth, config.search.policy)
        if "search.keep" in changes:
            implied["search.least"] = 1
        if implied.keys() - changes:
            changes = implied | changes
            config = configs.load_json(workdir / "config.json", changes)
        devices = jax.local_devices() if devices is None else devices
        axes = {axis: size for axis, size in config.mesh.items() if f"mesh.{axis}" in changes}
        return cls(config, workdir, make_mesh(**axes, devices=devices) if axes else _mesh_on(config, devices))

    # --------------------------------------------------------------------------------------------- what it is
    @property
    def stage(self) -> Stage:
        return stage_of(self.config)

    @property
    def name(self) -> str:
        """In messages: the work folder and the stage."""
        return f"{self.workdir} (stage {self.stage.name})"

    @property
    def predecessors(self) -> dict[str, Path]:
        """Field of `init` -> the work folder, or published directory, that the stage starts from."""
        return {name: configs.resolve_path(self.config.init[name]) for name in predecessors(self.config)}

    @functools.cached_property
    def hierarchy(self) -> Hierarchy:
        return make_hierarchy(self.config)

    @functools.cached_property
    def prompts(self) -> PromptEncoder:
        return make_prompts(self.config)

    @functools.cached_property
    def extractor(self) -> Extractor:
        """What makes features of frames and sentences; the same as for training."""
        return make_extractor(self.config, self.mesh)

    @functools.cached_property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Role -> path and content hash of each part that was made before this run."""
        return fingerprints(self.config)

    @property
    def steps(self) -> int:
        """Updates behind the model that is used: at the newest checkpoint, or at the best; 0 without one."""
        if self.workdir is None or not is_run(self.workdir):
            return 0
        return served_step(self.config, self.workdir)

    @property
    def trained_parameters(self) -> int:
        """How many parameters its table trains."""
        trainable, _, _ = split_by_table(take_apart(self.grounder("abstract"))[1], self.config.trainable)
        return sum(math.prod(shape.shape) for shape in trainable.values())

    # --------------------------------------------------------------------------------------------- its model
    def grounder(self, state: State) -> Grounder:
        """The model as its stage starts ("fresh"), as it was trained, or as shapes ("abstract"); see `grounder.py`."""
        if state not in self.made:
            make = {
                "fresh": lambda: fresh_grounder(self.config, self.mesh),
                "trained": lambda: self._trained(),
                "abstract": lambda: abstract_grounder(self.config),
            }
            self.made[state] = make[state]()
        return self.made[state]

    def _trained(self) -> Grounder:
        """Shares all arrays that were not trained with the fresh grounder."""
        if self.workdir is None:
            raise ConfigError("this run has no work folder, and so no trained model; give one, or train it.")
        module, arrays = take_apart(self.grounder("fresh"))
        trainable, frozen, _ = split_by_table(arrays, self.config.trainable)
        return module.merge(restore_trained(self.config, self.workdir, trainable)[1], frozen)

    def with_trained(self, model: Grounder) -> "Run":
        """The same run, with the grounder that a training has left in memory."""
        return dataclasses.replace(self, made={**self.made, "trained": model})

    def models(self, state: State = "trained") -> Models:
        """The grounders of a search: one for dense windows, and for the upper levels that of a stage that answers them.

        A long stage starts from its dense run's LoRA: that is its fresh grounder. Both share one base LLM.

        Raises:
          ConfigError: the stage's model answers no level of a search.
        """
        self.check_answers()
        own = self.grounder(state)
        dense = own if "dense" in self.stage.answers else self._before_training(state)
        sparse = dense.sparse if dense.visual.frames_see_query else None
        dense = Grounder(dense.llm, dense.adapter, sparse, norm=dense.norm, window_chunk=dense.window_chunk)
        question = "retrieval" if self.config.data.groups == "videos" else "group"
        return Models(dense, own if "upper" in self.stage.answers else None, question)

    def _before_training(self, state: State) -> Grounder:
        """As its stage starts; of shapes, what the stage trains is there a second time."""
        if state != "abstract":
            return self.grounder("fresh")
        module, arrays = take_apart(self.grounder(state))
        trainable, frozen, _ = split_by_table(arrays, self.config.trainable)
        return module.merge({path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in trainable.items()}, frozen)

    def check_answers(self) -> None:
        """Raises ConfigError, with the command to use instead, unless the stage's model can answer a search."""
        if self.stage.answers:
            return
        able = [stage for stage in makers("dense") if stage.answers]
        raise ConfigError(
            f"{self.workdir} is a run of stage {self.stage.name!r}, which trains {self.stage.trains} and answers no "
            f"search; expected a run of {able[0].config} or configs/stage2.py. Make one with "
            f"`python -m revision_jax.train --config {able[0].config}`."
        )

    # --------------------------------------------------------------------------------------------- its data
    def directories(self, splits: Sequence[str]) -> Mapping[str, Path]:
        """Split -> data set directory; `shapes` is made when missing. See `splits.prepare_data`."""
        return prepare_data(self.config, self.mesh, splits=tuple(splits))

    def split(self, name: str, directory: Path | None = None) -> Split:
        """A split's features and queries, checked against the run; `directory`: default, that of the config's data."""
        directory = self.directories((name,))[name] if directory is None else directory
        return Split.of(name, *open_split(self.config, directory, self.grounder("abstract").visual_width))

    # --------------------------------------------------------------------------------------------- its search
    def searcher(
        self, models: Models | None = None, *, changes: Mapping[str, Any] = MappingProxyType({}),
        memory_gib: float = 0.0,
    ) -> Searcher:  # fmt: skip
        """The search as the config has it.

        Args:
          models: default: the trained ones.
          changes: fields of `SearchSettings` that differ from the config.
          memory_gib: what a device may use, CLIP among it; 0 takes what it has.
        """
        settings = SearchSettings.of(self.config.search, **changes)
        memory = Memory(memory_gib, self.extractor.held_bytes)
        return Searcher(models or self.models(), self.prompts, self.hierarchy, settings, self.mesh, memory)

    def sentences(self, texts: Sequence[str], depth: int, policy: str, *, similar: bool = False) -> Sentences:
        """Queries with those features of CLIP that a search of this depth and policy needs.

        Args:
          similar: the holistic features too, where neither the run's search nor the policy needs them.
        """
        tokens, mask = None, None
        if depth > 1 or frames_see_query(self.config):
            tokens, mask = query_tokens(self.extractor, texts, self.config.prompt.query_tokens)
        compared = similar or SearchSettings.of(self.config.search).compares or find_policy(policy).needs_similarity
        return Sentences(texts, tokens, mask, self.extractor.encode_queries(texts) if compared else None)

    # --------------------------------------------------------------------------------------------- its answers
    @functools.cached_property
    def _served(self) -> Searcher:
        self.check_windows()
        return self.searcher()

    def check_windows(self) -> None:
        """Raises ConfigError where the run's upper levels choose among short videos, not windows of one video."""
        if self.config.data.groups == "videos" and "upper" in self.stage.answers:
            raise ConfigError(
                f"{self.workdir} chooses among short videos (data.groups is 'videos'); expected a run that chooses "
                "windows of one video: train --config configs/stage2.py, or use its init.dense run."
            )

    def search(
        self, video: VideoFeatures, texts: Sequence[str], *, depth: int | None = None, policy: str | None = None,
        threshold: float | None = None,
    ) -> Searched:  # fmt: skip
        """Results and cost of a search for some sentences in a video; see `ground`.

        Args:
          threshold: the least confidence of a moment that is there; default: what `evaluate` chose for this search.
        """
        if policy is None:
            policy = self.config.search.policy if depth is None else policy_at(depth, self.config.search.policy)
        depth = self.config.search.depth if depth is None else depth
        searcher = self._served
        sentences = self.sentences(texts, depth, policy, similar=searcher.settings.compares)
        if threshold is None:
            served = (depth, policy) == (self.config.search.depth, self.config.search.policy)
            budget = self.budget if served else None
            threshold = calibration.threshold(self.workdir, searcher.settings, depth, policy, budget)
        with jax.set_mesh(self.mesh):
            return searcher.search(video, sentences, depth=depth, policy=policy, threshold=threshold)

    def ground(
        self, video: str | Path | VideoFeatures, sentences: str | Sequence[str], *, depth: int | None = None,
        policy: str | None = None,
    ) -> list[Result]:  # fmt: skip
        """When do the events happen? One result a sentence, its moments in seconds, surest first.

        Args:
          video: a file that FFmpeg reads, or what `encode` made of one.
          sentences: one query or several; several share the work on the video.
          depth, policy: of the search; default: `search.depth` and `search.policy` of the run's config, and `top_down`
            at a depth at which that policy does not search.

        Raises:
          VideoError: the file cannot be used as a video.
          ConfigError: the run's stage answers no search.
          ValueError: a sentence is empty or too long; there is no such depth or policy.
        """
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        self.check_answers()
        self.check_sentences(texts)
        features = video if isinstance(video, VideoFeatures) else self.encode(video)
        return self.search(features, texts, depth=depth, policy=policy).results

    def encode(self, video: str | Path, cache: FeatureCache | None = None) -> VideoFeatures:
        """The features of a video file, to be searched several times; a `cache` keeps them for the next start."""
        return self.extractor.encode_video(video) if cache is None else cache.encode(self.extractor, video)

    def check_sentences(self, sentences: Sequence[str]) -> None:
        """Raises ValueError for a sentence that cannot be asked; warns of words that the model does not know."""
        if not sentences:
            raise ValueError("there is no query; expected at least one sentence.")
        unknown = self.prompts.tokenizer.unk_token_id
        for sentence in sentences:
            try:
                asked = self._served.question(sentence)
            except ValueError as error:
                raise ValueError(str(error).replace(repr(sentence), quoted(sentence))) from None
            if unknown is not None and unknown in asked:
                log.warning("%s holds words that this run's language model does not know", quoted(sentence))


HOW_TO_TRAIN = "make one with `python -m revision_jax.train --config configs/stage1.py`"


def _mesh_on(config: ConfigDict, devices: Sequence) -> jax.sharding.Mesh:
    """The config's `fsdp` and `tensor` axes where they divide the devices, the rest on `data`; else all on `data`."""
    inner = {axis: config.mesh[axis] for axis in ("fsdp", "tensor")}
    whole = inner["fsdp"] * inner["tensor"]
    if min(inner.values()) < 1 or len(devices) % whole:
        return make_mesh(devices=devices)
    return make_mesh(-1, **inner, devices=devices)


def load_run(
    workdir: str | Path | None = None, changes: Mapping[str, Any] | Iterable[str] = (), budget: float | None = None
) -> Run:
    """The run in a work folder, or in an exported bundle; without one, the newest under `./runs` that can answer.

    Args:
      changes: see `Run.load`.
      budget: the share of the dense (query, window) pairs that a search may look at, as `evaluate --budget` chose.

    Raises:
      ConfigError: there is no trained run there, its stage answers no search, or nothing was chosen for the budget.
      CheckpointError: its files changed.
    """
    changes = configs.as_mapping(changes)
    run = Run.load(newest_run() if workdir is None else workdir, changes)
    run.check_answers()
    if budget is None:
        return run
    run.check_windows()
    budgets.check_budget(budget, changes)
    chosen = budgets.chosen_search(run.workdir, budget)
    return dataclasses.replace(Run.load(run.workdir, changes | chosen), budget=budget)


def newest_run(folder: str | Path = "runs") -> Path:
    """The run under `folder` whose checkpoints changed last, of those that can answer a search of one video.

    Raises:
      ConfigError: there is none.
    """
    runs = [path.parent for path in Path(folder).glob("*/checkpoints") if is_run(path.parent) and _answers(path.parent)]
    if not runs:
        raise ConfigError(
            f"there is no trained run under {Path(folder)}/ that can answer; {HOW_TO_TRAIN}, or give --workdir RUN."
        )
    return max(runs, key=lambda run: (run / "checkpoints").stat().st_mtime)


def _answers(workdir: Path) -> bool:
    """Whether a run can be searched with: by its stage, and with all predecessors there."""
    config = configs.load_json(workdir / "config.json")
    stage = stage_of(config)
    upper = "upper" in stage.answers
    return bool(stage.answers) and not missing_predecessors(config) and not (upper and config.data.groups == "videos")
