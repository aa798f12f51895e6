"""`RUN/eval/calibration.json`: what an evaluation chose on val for each method of search, and `ground` uses."""

import logging
import math
from pathlib import Path

from revision_jax.config import ConfigError
from revision_jax.config_rules import ADDED
from revision_jax.files import read_json
from revision_jax.runs import budgets
from revision_jax.search.method import method_name
from revision_jax.search.settings import SearchSettings

FILE = Path("eval") / "calibration.json"
# Fields of a search that change what its confidence means: a threshold chosen with other values says nothing.
MEANING = ("confidence", "beam", "sampling", "rescale", "similarity", "alone", "readings")
log = logging.getLogger(__name__)


def threshold(
    workdir: Path | None, settings: SearchSettings, depth: int, policy: str, budget: float | None = None
) -> float:  # fmt: skip
    """The least confidence that counts as present, chosen on val for this method; 0, with a warning, without one.

    Args:
      budget: the one that chose depth and policy, whose file is then read; see `budgets.py`.

    Raises:
      ConfigError: the file holds no calibration.
    """
    method, command = method_name(depth, policy), f"python -m revision_jax.evaluate --workdir {workdir}"
    file = FILE
    if budget is not None and workdir is not None:
        file, command = budgets.place(budget), budgets.command(workdir, budget)
    if workdir is None or not (workdir / file).exists():
        log.warning("%s was not evaluated, so that every answer counts; run `%s` for a threshold", workdir, command)
        return 0.0
    found = read_json(workdir / file)
    try:
        searched, evaluated = found["search"], method in found["methods"]
        chosen = found["methods"][method]["threshold"] if evaluated else None
        differing = [
            name for name in MEANING if searched.get(name, ADDED.get(f"search.{name}")) != getattr(settings, name)
        ]
    except (AttributeError, KeyError, TypeError):
        raise ConfigError(f"{workdir / file} is no calibration; make it again with `{command}`.") from None
    if not evaluated:
        log.warning("%s was not evaluated with %s, so that every answer counts; run `%s`", workdir, method, command)
        return 0.0
    if differing:
        log.warning(
            "%s was evaluated with other values of %s, so that every answer counts; run `%s` with these",
            workdir, ", ".join(f"search.{name}" for name in differing), command,
        )  # fmt: skip
        return 0.0
    if type(chosen) not in (int, float) or not math.isfinite(chosen):
        raise ConfigError(f"{workdir / file}: the threshold of {method} is {chosen!r}; expected a number.")
    return float(chosen)
