"""From a depth and a policy by name to the plan of a search."""

from revision_jax.hierarchy import Hierarchy
from revision_jax.search.policies import BottomUp, Fused, RetrieveThenGround, TopDown, check_policy
from revision_jax.search.program import Plan
from revision_jax.search.settings import SearchSettings
from revision_jax.search.upper_levels import Level


def plan_search(
    levels: tuple[Level, ...], hierarchy: Hierarchy, settings: SearchSettings, depth: int, policy: str
) -> Plan:
    """What a search of this depth does.

    Args:
      levels: all that a grounder of upper levels was made for, coarse first; none without such a grounder.

    Raises:
      ValueError: there is no such depth or policy, or no grounder for upper levels.
    """
    check_policy(policy)
    if policy == "retrieve_then_ground" and depth:
        return Plan((), RetrieveThenGround(settings.keep[-1]))
    if depth in (0, 1):
        return Plan()
    sizes = hierarchy.levels_of(depth)
    if not levels:
        raise ValueError(
            f"search depth {depth} needs a grounder of upper levels (a run of configs/stage2.py); this run has "
            f"none. Search at depth 1."
        )
    if len(settings.keep) != len(levels):
        raise ValueError(
            f"search.keep is {settings.keep}, hierarchy.levels {hierarchy.levels}; expected a share for each level."
        )
    levels = levels[-len(sizes) :]
    if policy == "bottom_up":
        return Plan(levels, BottomUp(len(levels), settings.rescale))
    kind = Fused if policy == "fused" else TopDown
    power = settings.rescale if policy == "top_down_rescaled" else 0.0
    return Plan(levels, kind(tuple(settings.keep[-len(levels) :]), power))
