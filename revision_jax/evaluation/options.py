"""How an evaluation differs from what the run's config says."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from revision_jax.config import ConfigError
from revision_jax.runs.budgets import check_budget


@dataclasses.dataclass(frozen=True)
class Options:
    """How an evaluation differs from what the run's config says. An option that a stage cannot honour is refused.

    Attributes:
      split: "val" or "test"; "" takes the config's `eval.split`.
      data: directory of another prepared split, which is scored instead.
      out: folder within the work folder.
      protocol: key of `evaluation.protocols.PROTOCOLS`.
      search: fields of `SearchSettings`, over the config's and the protocol's.
      methods: some of `evaluation.methods.known_methods`, or `clip`; empty takes all that a run has.
      memory_gib: what a device may use; 0 takes what it has.
      wide: the terminal shows all columns; they and the page's also mAP.
      submission: a key of `evaluation.submissions.FORMS`: the answers are also written for a benchmark; "" = not.
      diagnose: names what fails, see `diagnosis.py`.
      score: files of other programs' answers, which are scored beside the run's.
      queries: at most so many queries of the scored split are asked, at even distances; 0 = all.
      budget: the share of the dense (query, window) pairs that the search may look at: policy and shares are chosen on
        val, see `budget.py`; None: they are the config's.
    """

    split: str = ""
    data: str = ""
    out: str = "eval"
    protocol: str = "ours"
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    methods: tuple[str, ...] = ()
    memory_gib: float = 0.0
    wide: bool = False
    submission: str = ""
    score: tuple[str, ...] = ()
    diagnose: bool = False
    queries: int = 0
    budget: float | None = None

    def __post_init__(self):
        if self.split and self.data:
            raise ConfigError(f"--split is {self.split!r} and --data {self.data!r}; expected one of them.")
        if self.queries < 0:
            raise ConfigError(f"--queries is {self.queries}; expected a number of queries, or 0 for all.")
        if self.budget is not None:
            check_budget(self.budget, [f"search.{name}" for name in self.search])
            if self.methods:
                raise ConfigError("--budget chooses the method, and --methods names some; leave out one of them.")
        changed = self.queries or self.protocol != "ours" or self.search or self.methods or self.budget
        if self.out == "eval" and changed:
            raise ConfigError(
                "another protocol, search, budget, choice of methods or number of queries needs a folder of its own; "
                "give --out NAME."
            )

    def given(self) -> list[str]:
        """Names of the options that differ from the default; of the search, each field: `search.beam`."""
        names = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != _default(field)]
        return [name for name in names if name != "search"] + [f"search.{name}" for name in self.search]

    def check(self, honoured: Collection[str], run: str) -> None:
        """Raises ConfigError for an option that was given and is not among those that a run honours.

        Args:
          honoured: names as `given` has them; `search.*` stands for every field of the search.
          run: what the message calls the run.
        """
        every_field = "search.*" in honoured
        refused = [
            name for name in self.given() if name not in honoured and not (every_field and name.startswith("search."))
        ]
        if refused:
            flags, expected = (", ".join(f"--{name}" for name in names) for names in (refused, sorted(honoured)))
            raise ConfigError(f"{flags} has no effect on {run}; expected only {expected}.")


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


DEFAULT = Options()
