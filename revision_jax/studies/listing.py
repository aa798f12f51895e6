"""What `--list` and `--dry-run` print: studies with what each takes; the rows of one, and what of them is there."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from revision_jax import config as configs
from revision_jax.studies.chain import scored, trained
from revision_jax.studies.grid import Chain, Link, Study, chain_of, load
from revision_jax.studies.minutes import scoring_minutes, total_minutes, training_minutes

COMPUTED = (
    "Minutes are computed, not measured: from steps and queries, by seconds that 2 cores took (the study's file has "
    "them). Making data is not in them."
)


def print_studies(path: str, seeds: Sequence[int], fields: Mapping[str, str], root: Path) -> None:
    """A line a study: rows, trainings and minutes of all seeds, its question; then the names of those at full size.

    Args:
      path: of a config file, without a study.
    """
    others = []
    for name in configs.presets(path):
        if not configs.derive(f"{path}:{name}", {}).get("seconds"):
            others.append(name)
            continue
        study = load(f"{path}:{name}", fields)
        one = chains_of(study, seeds[:1], root)  # the others are like it
        trainings = len(seeds) * len({link.key for chain in one for link in chain.links})
        minutes = len(seeds) * (total_minutes(one, study.seconds) or 0.0)
        print(f"{name:12} {len(study.rows):3} rows {trainings:3} trainings {minutes:4.0f} min   {study.question}")
    told = (
        f"Seeds {', '.join(map(str, seeds))}; a study alone: what others have trained is not trained again. {COMPUTED}"
    )
    for text in (told, f"Without measured seconds (`plan` computes recipes): {', '.join(others)}." if others else ""):
        print(textwrap.fill(text, 100))


def print_plan(study: Study, seeds: Sequence[int], root: Path) -> None:
    """The rows of a study, each stage of them and each evaluation: there, to be done, or done by a row before."""
    chains = chains_of(study, seeds, root)
    seen: set[str] = set()
    for chain in chains:
        print(f"{chain.row.name}, seed {chain.seed}")
        for link in chain.links:
            state, minutes = _link_state(link, study, seen)
            print(f"    {link.name:16} {state:14} {minutes:>8}  {link.folder}")
        state, minutes = _scored_state(chain, study, seen)
        print(f"    {chain.row.method:16} {state:14} {minutes:>8}  {chain.folder}")
    total = _told(total_minutes(chains, study.seconds))
    print(textwrap.fill(f"In all {total or 'unknown minutes'}, as if nothing were there. {COMPUTED}", 100))


def chains_of(study: Study, seeds: Sequence[int], root: Path) -> list[Chain]:
    """All rows for all seeds, in the order in which they are run."""
    return [chain_of(study, row, seed, root) for seed in seeds for row in study.rows]


def _link_state(link: Link, study: Study, seen: set[str]) -> tuple[str, str]:
    """What is to be done for a stage, and its minutes."""
    if trained(link):
        return "there", ""
    if link.key in seen:
        return "shared", ""
    seen.add(link.key)
    return "to be trained", _told(training_minutes(link, study.seconds) if study.seconds else None)


def _scored_state(chain: Chain, study: Study, seen: set[str]) -> tuple[str, str]:
    """What is to be done for an evaluation, and its minutes."""
    if scored(chain):
        return "there", ""
    if str(chain.folder) in seen:
        return "shared", ""
    seen.add(str(chain.folder))
    return "to be done", _told(scoring_minutes(chain, study.seconds) if study.seconds else None)


def _told(minutes: float | None) -> str:
    return "" if minutes is None else f"{minutes:.0f} min" if minutes >= 10 else f"{minutes:.1f} min"
