"""The steps of the recipe of a data set, planned one after the other."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from revision_jax import config as configs
from revision_jax.config import ConfigError
from revision_jax.planning.compiled import compiled_work
from revision_jax.planning.counts import Count
from revision_jax.planning.files import export_work, image_work, prepare_work
from revision_jax.planning.machine import Machine
from revision_jax.planning.rates import Rates
from revision_jax.planning.searching import evaluate_work
from revision_jax.planning.training import run_of, steps_of, train_work
from revision_jax.planning.work import Step, Work, take
from revision_jax.runs.stage import STAGES

STEPS = ("prepare", "align", "dense", "evaluate dense", "sparse", "long", "evaluate long", "export")
TRAINED = ("align", "dense", "sparse", "long")
# Fields that mean the same in every stage; others are those of the config that was named.
EVERYWHERE = (
    "mesh.", "model.dtype", "model.param_dtype", "model.remat", "base.llm", "base.encoder", "data.", "hierarchy.",
    "search.keep", "search.shortlist", "search.readings", "lora.rank", "lora.alpha", "prompt.system", "eval.",
)  # fmt: skip
SOURCES = ("videos", "features")
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is planned.

    Attributes:
      configs: stage -> its config.
      counts: split -> its count.
      source: of the features: `files.prepare_work`.
      topology: compiles each training for it, for what it holds and sends; "" counts these in closed form.
    """

    configs: Mapping[str, ConfigDict]
    counts: Mapping[str, Count]
    source: str
    machine: Machine
    rates: Rates
    topology: str = ""

    def steps(self, wanted: Sequence[str] = STEPS) -> Iterator[Step]:
        """The rows of the table in order; says what it counts."""
        for name in wanted:
            stage = name.removeprefix("evaluate ")
            if stage in TRAINED and stage not in self.configs:
                log.info("%s: no config of this preset", name)
                continue
            log.info("counting %s", name)
            yield take(self._work(name, stage), self.machine, self.rates)

    def _work(self, name: str, stage: str) -> Work:
        counts = dict(self.counts)
        if name == "prepare":
            return prepare_work(self.configs["dense"], counts, self.source, self.machine, self.rates)
        if name == "export":
            return export_work(self.configs["dense"])
        run = run_of(self.configs[stage], self.machine)
        if name.startswith("evaluate"):
            return evaluate_work(run, counts, self.machine, self.rates)
        work = train_work(run, self.counts["train"], self.machine, self.rates)
        work = dataclasses.replace(work, flops=work.flops + image_work(run.config, self.rates))
        if not self.topology:
            return work
        log.info("compiling %s for %s: minutes", name, self.topology)
        return compiled_work(work, run, self.topology, steps_of(run, self.counts["train"]))


def steps_wanted(text: str | None) -> list[str]:
    """The steps of a flag such as `dense,evaluate dense`, in the recipe's order; all without one.

    Raises:
      ConfigError: one that there is not.
    """
    names = [name.strip() for name in text.split(",")] if text else list(STEPS)
    strangers = [name for name in names if name not in STEPS]
    if strangers:
        raise ConfigError(f"--steps names {', '.join(map(repr, strangers))}; expected some of {', '.join(STEPS)}.")
    return [name for name in STEPS if name in names]


def configs_of(spec: str, fields: Mapping[str, str]) -> dict[str, ConfigDict]:
    """Stage -> its config, for the preset that a config names.

    Args:
      spec: `path.py[:preset]` of any stage; its own stage takes all fields, the others those of `EVERYWHERE`.

    Raises:
      ConfigError: an unknown field or preset; a data set whose short videos are one window each.
    """
    named = configs.load(spec, fields)
    path, _, preset = spec.partition(":")
    preset = preset or configs.presets(path)[0]
    shared = {key: value for key, value in fields.items() if key.startswith(EVERYWHERE)}
    found = {}
    for stage in TRAINED:
        file = STAGES[stage].config
        own = preset
        if stage == "align":
            own = "tiny" if named.data.name == "shapes" else "paper"
        if stage == named.stage:
            found[stage] = named
        elif own in configs.presets(file):
            mine = {key: value for key, value in shared.items() if stage != "align" or not key.startswith("data.")}
            found[stage] = configs.load(f"{file}:{own}", mine)
    if "dense" not in found:
        raise ConfigError(f"{spec}: configs/stage1.py has no preset {preset!r}; expected one of a data set.")
    if named.data.groups == "videos":
        raise ConfigError(
            f"data.groups is 'videos'; expected 'windows': a plan counts searches of long videos ({spec})."
        )
    return found


def source_of(config: ConfigDict, given: str | None) -> str:
    """Where features come from: what was given, or what the data set has."""
    if config.data.name == "shapes":
        return "shapes"
    return given or ("features" if config.data.name in ("mad", "vidchapters") else "videos")
