"""Rows of a study that were done elsewhere, taken from another machine's `results.json`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from revision_jax.config import ConfigError
from revision_jax.files import read_json
from revision_jax.studies.grid import Chain

VERSION = 2  # of `results.json`
SOURCE = ("commit", "machine", "versions")  # what is kept of where numbers come from
Key = tuple[str, int]  # name of a row, seed


class Joined(NamedTuple):
    """What was done elsewhere.

    Attributes:
      outcomes: (row, seed) -> what it gave, as `results.outcome` returns it.
      sources: of each file its name, seeds, commit, machine and versions.
    """

    outcomes: dict[Key, dict[str, Any]]
    sources: list[dict[str, Any]]


def load(files: Sequence[Path], chains: Iterable[Chain]) -> Joined:
    """What `results.json` files hold of the rows and seeds of `chains`; failed rows are left out.

    Raises:
      ConfigError: a file is no `results.json` of this version, holds none of these rows, or a row that another file
        holds, too; or a row was trained or evaluated otherwise there: with other fields, pretrained parts or data.
    """
    wanted = {(chain.row.name, chain.seed): chain for chain in chains}
    joined = Joined({}, [])
    for file in files:
        results = _read(file)
        taken = {key: one for key, one in _outcomes(results) if key in wanted and "error" not in one}
        if not taken:
            seeds = ", ".join(map(str, sorted({seed for _, seed in wanted})))
            raise ConfigError(f"--join {file} has no row of this study that is whole, for seeds {seeds}.")
        for key, one in taken.items():
            _check(file, wanted[key], one)
            if key in joined.outcomes:
                raise ConfigError(f"--join {file}: row {key[0]}, seed {key[1]} is in another joined file, too.")
            joined.outcomes[key] = one
        joined.sources.extend(_sources(file, results, {seed for _, seed in taken}))
    return joined


def _read(file: Path) -> dict[str, Any]:
    results = read_json(file) if file.is_file() else None
    if not isinstance(results, dict) or results.get("version") != VERSION or "rows" not in results:
        raise ConfigError(f"--join {file} is not there, or no results.json of a study, version {VERSION}.")
    return results


def _outcomes(results: dict[str, Any]) -> Iterable[tuple[Key, dict[str, Any]]]:
    return (((row["name"], int(seed)), one) for row in results["rows"] for seed, one in row["by_seed"].items())


def _sources(file: Path, results: Mapping[str, Any], taken: set[int]) -> list[dict[str, Any]]:
    """Where the seeds that were taken come from: that file, and what it had joined itself."""
    own = {"file": file.name, "seeds": results["here"]} | {name: results[name] for name in SOURCE}
    sources = [one | {"seeds": sorted(taken & {*one["seeds"]})} for one in (own, *results["joined"])]
    return [one for one in sources if one["seeds"]]


def _check(file: Path, chain: Chain, theirs: dict[str, Any]) -> None:
    """Compares what decides a row's numbers: the stages' keys, and the name of the evaluation's folder, a hash too."""
    ours = [(link.name, link.key) for link in chain.links] + [("evaluation", chain.folder.name)]
    found = [(stage["name"], stage["key"]) for stage in theirs["stages"]]
    found.append(("evaluation", Path(theirs["evaluation"]["folder"]).name))
    for one, other in zip(ours, found):
        if one != other:
            raise ConfigError(
                f"--join {file}: row {chain.row.name}, seed {chain.seed}: {one[0]} is {other[1]} there and {one[1]} "
                f"here: other fields, pretrained parts or data. Use the code and the files that it was made with."
            )
    if len(ours) != len(found):
        raise ConfigError(
            f"--join {file}: row {chain.row.name} has {len(found) - 1} stages there, {len(ours) - 1} here."
        )
