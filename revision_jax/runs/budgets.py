"""`RUN/eval/budgets/SHARE.json`: the search that `evaluate --budget SHARE` chose on val, which `ground` takes over.

A budget is the share of the dense (query, window) pairs that a search may look at. The file has the form of
`calibration.json`, of the chosen method alone; beside it stands what was tried.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from revision_jax.config import ConfigError
from revision_jax.files import read_json
from revision_jax.search.rules import CHOOSING

FOLDER = Path("eval") / "budgets"


def check_budget(budget: float, given: Collection[str] = ()) -> None:
    """Raises ConfigError for a budget that is no share, or beside fields of the config that it chooses.

    Args:
      given: keys that were set, such as `search.keep`.
    """
    if not 0 < budget <= 1:
        raise ConfigError(f"--budget is {budget}; expected a share of the dense windows, above 0 and at most 1.")
    chosen = [f"search.{name}" for name in CHOOSING if f"search.{name}" in given]
    if chosen:
        raise ConfigError(f"--budget chooses {', '.join(chosen)}, which is set too; leave out one of them.")


def place(budget: float) -> Path:
    """The file of a budget in a work folder."""
    return FOLDER / f"{str(float(budget)).removesuffix('.0')}.json"


def command(workdir: Path, budget: float) -> str:
    """The command that chooses for a budget."""
    share = str(float(budget)).removesuffix(".0")
    return f"python -m revision_jax.evaluate --workdir {workdir} --budget {share} --out budget{100 * budget:g}"


def chosen_search(workdir: Path, budget: float) -> dict[str, Any]:
    """The fields of the config that were chosen for a budget: `search.depth`, `search.policy` and so on.

    Raises:
      ConfigError: nothing was chosen for this budget; the message has the command.
    """
    path, run = workdir / place(budget), command(workdir, budget)
    if not path.is_file():
        others = sorted(file.stem for file in (workdir / FOLDER).glob("*.json"))
        known = f" (there is one for {', '.join(others)})" if others else ""
        raise ConfigError(f"{workdir}: no search was chosen for a budget of {budget:g}{known}; choose it with `{run}`.")
    try:
        search = {"least": 1} | read_json(path)["search"]  # of files from before there was a least number
        return {f"search.{name}": search[name] for name in CHOOSING}
    except (KeyError, TypeError):
        raise ConfigError(f"{path} does not say what was chosen; choose it again with `{run}`.") from None
