"""The plan of a search: what is fixed about it, from its settings, depth and policy."""

import dataclasses

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.levels.upper import UpperLevel
from revision_jax.search.policies import find_policy
from revision_jax.search.policy import Policy
from revision_jax.search.settings import SearchSettings


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed about a search at one depth; a program is compiled for each plan.

    Attributes:
      settings: how to search; packing makes the blocks fit the memory.
      levels: upper levels, coarse first; none at depths 0 and 1.
      policy: chooses windows; None asks every dense window.
      dense_batch, upper_batch: queries asked together of a window, and of the upper levels.
    """

    settings: SearchSettings
    levels: tuple[UpperLevel, ...] = ()
    policy: Policy | None = None
    dense_batch: int = 1
    upper_batch: int = 1


def plan_search(
    levels: tuple[UpperLevel, ...], hierarchy: Hierarchy, settings: SearchSettings, depth: int, policy: str
) -> Plan:
    """What a search of this depth does.

    Args:
      levels: all levels that the grounder of upper levels was made for, coarse first; none without such a grounder.

    Raises:
      ValueError: there is no such depth or policy, the policy cannot search at this depth, or there is no grounder of
        upper levels.
    """
    kind = find_policy(policy)
    kind.check_depth(depth)
    sizes = hierarchy.levels_of(depth) if depth else ()
    if sizes and not levels:
        raise ValueError(
            f"search depth {depth} needs a grounder of upper levels (a run of configs/stage2.py); this run has "
            f"none. Search at depth 1."
        )
    if sizes and len(settings.keep) != len(levels):
        raise ValueError(
            f"search.keep is {settings.keep}, hierarchy.levels {hierarchy.levels}; expected a share for each level."
        )
    if not sizes and not kind.needs_similarity:
        return Plan(settings)  # nothing ranks windows before they are asked
    return Plan(settings, levels[len(levels) - len(sizes) :], kind.make(settings, len(sizes)))
