"""What an evaluator is, and what it is given."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from revision_jax.evaluation.options import Options
from revision_jax.report.plots import Timeline
from revision_jax.runs.run import Run


def file_path(folder: Path, name: str, split: str) -> Path:
    """A file of an evaluation; that of another split than test carries the split's name: `metrics_val.json`."""
    stem, dot, suffix = name.partition(".")
    return folder / (name if split == "test" else f"{stem}_{split}{dot}{suffix}")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One call of `evaluate`.

    Attributes:
      run: what is scored.
      options: see `Options`.
      split: name of the split that is scored.
      directories: split -> data set directory, of it and of `val` where something is chosen there.
      old: what `metrics.json` held before; {} if there was none.
    """

    run: Run
    options: Options
    split: str
    directories: Mapping[str, Path]
    old: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where its files go."""
        return self.run.workdir / self.options.out

    def path(self, name: str, split: str = "") -> Path:
        """A file of this evaluation; that of another split than test carries the split's name."""
        return file_path(self.folder, name, split or self.split)


class Scored(NamedTuple):
    """What an evaluator found.

    Attributes:
      metrics: its part of `metrics.json`.
      cases: every query, for the report.
    """

    metrics: dict[str, Any]
    cases: Sequence[Timeline] = ()


class Evaluator(Protocol):
    """What scores one kind of answer.

    Attributes:
      honours: the options that have an effect on it, as `Options.check` names them.
      chooses_on_val: whether it needs the split `val` beside the one that is scored.
    """

    honours: frozenset[str]
    chooses_on_val: bool

    def __call__(self, evaluation: Evaluation) -> Scored:
        """Scores the run."""
        ...
