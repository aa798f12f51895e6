"""How to spend a budget: of the policies and shares that look at so many dense windows, the best on val.

A budget is a share of the dense (query, window) pairs; every video's number of windows is rounded up. The grid is fixed
and small, since a choice among many on few queries would be a choice of luck.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from revision_jax.config import ConfigError
from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation import methods as m
from revision_jax.evaluation.identity import answers_digest
from revision_jax.evaluation.protocols import Protocol
from revision_jax.evaluation.scores import UNCALIBRATED, score
from revision_jax.runs.splits import Split
from revision_jax.search.method import PLAIN, method_name
from revision_jax.search.models import Models
from revision_jax.search.policies import find_policy, policy_names
from revision_jax.search.policy import Policy, kept
from revision_jax.search.rules import CHOOSING
from revision_jax.search.searcher import Searcher

SHORTLISTS = (0.15, 0.3, 0.6)  # of policies that shortlist; those above the budget
MANY = 10**6  # windows, to see which share of them a policy asks


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to spend a budget.

    Attributes:
      depth, policy: of the search.
      keep, shortlist, least: see `SearchSettings`; a budget is kept of short videos, too.
    """

    depth: int
    policy: str
    keep: tuple[float, ...]
    shortlist: float
    least: int = 1

    @property
    def method(self) -> str:
        """As methods are called."""
        return method_name(self.depth, self.policy)

    @property
    def name(self) -> str:
        """Of this way alone."""
        shares = ",".join(f"{share:.6g}" for share in self.keep)
        return f"{self.method} keep {shares} shortlist {self.shortlist:.6g}"

    def searcher(self, searcher: Searcher) -> Searcher:
        """A searcher that goes this way by default; compiled programs are shared."""
        return searcher.choosing(**dataclasses.asdict(self))

    def asked_share(self, searcher: Searcher) -> float:
        """The share of the dense windows that it asks."""
        policy = self.searcher(searcher).plan().policy
        return 1.0 if policy is None else int(policy.counts(MANY, MANY)[-1]) / MANY


@dataclasses.dataclass(frozen=True)
class Tried:
    """What a way was worth on val: percent of the present queries whose first moment is right (IoU > .3), and its cost.

    Attributes:
      way: that was tried.
      recall: R1@0.3, percent.
      frame_share: percent of the pairs that were asked.
      tokens: through the language model, a query.
    """

    way: Way
    recall: float
    frame_share: float
    tokens: float

    def as_dict(self) -> dict[str, Any]:
        """As `metrics.json` has it."""
        found = {"R1@0.3": self.recall, "frame_share": self.frame_share, "llm_tokens_per_query": self.tokens}
        return dataclasses.asdict(self.way) | found


# ------------------------------------------------------------------------------------------------- the grid
def ways_to_spend(budget: float, searcher: Searcher) -> list[Way]:
    """All ways that are tried: each policy that stays within the budget, as deep as it searches.

    Where everything may be asked, the search of all windows without upper levels (depth 1) is one of them.
    """
    found = []
    for policy in policy_names():
        kind = find_policy(policy)
        depth = searcher.max_depth if kind.most_depth is None else min(kind.most_depth, searcher.max_depth)
        if kind.compared == "never" or depth < kind.least_depth:
            continue
        for shortlist in shortlists(kind, budget, searcher.settings.shortlist):
            shown = shortlist if kind.shortlists else 1.0
            found += [Way(depth, policy, keep, shortlist) for keep in shares(budget, shown, depth - 1, searcher)]
    found.append(Way(1, PLAIN, (1.0,) * len(searcher.settings.keep), searcher.settings.shortlist))
    most = kept(budget, MANY) / MANY
    return [way for way in dict.fromkeys(found) if way.asked_share(searcher) <= most]


def shortlists(kind: type[Policy], budget: float, own: float) -> tuple[float, ...]:
    """Of a policy that shortlists, those that leave its levels something to choose; else `own`, which it ignores."""
    return tuple(share for share in SHORTLISTS if share > budget) if kind.shortlists else (own,)


def shares(budget: float, shown: float, levels: int, searcher: Searcher) -> list[tuple[float, ...]]:
    """`search.keep` in both ways: the last level alone cuts, or all cut by one factor, from what the first is shown.

    Args:
      shown: the share of the windows that the first level is shown.
      levels: upper levels that are searched; before them stand the shares of levels that are not.
    """
    unused = len(searcher.settings.keep) - max(levels, 1)
    even = [shown * (budget / shown) ** (place / levels) for place in range(1, levels)]
    return [(*[1.0] * unused, *above, budget) for above in ([1.0] * max(levels - 1, 0), even)]


# ------------------------------------------------------------------------------------------------- the choice
def ask_ways(
    ways: Sequence[Way], asking: m.Asking, split: Split, models: Models, path: Path
) -> dict[Way, m.Answers]:  # fmt: skip
    """The answers of every way on a split; what a video's windows say is shared by all.

    Args:
      asking: what the searches have in common.
      models: of the searcher.
      path: the log of predictions; what it holds is not asked again.
    """
    searcher, asks = asking.searcher, {}
    shared = m.SharedWork(searcher, parts=sum(way.asked_share(searcher) for way in ways) > 1)
    # Shortlists last: they take what the others had made of all windows.
    for way in sorted(ways, key=lambda way: find_policy(way.policy).shortlists):
        one = dataclasses.replace(asking, searcher=way.searcher(searcher), shared=shared)
        asks[way.name] = one.search(way.depth, way.policy, measured=False)
    settings = searcher.settings.results()
    fixed = {name: value for name, value in settings.items() if name not in CHOOSING}  # the rest is a way's name
    which = [model for model in models.both if model is not None]
    answers = m.answer(split, [m.Logged(asks, path, answers_digest(asking.run, fixed, split, which))])
    return {way: answers[way.name] for way in ways}


def score_ways(answers: Mapping[Way, m.Answers], queries: Sequence[Query], protocol: Protocol) -> list[Tried]:
    """What each way was worth, given its answers to the queries in order."""
    named = {way.name: found for way, found in answers.items()}
    scores = score(queries, named, dict.fromkeys(named, UNCALIBRATED), protocol)
    return [
        Tried(
            way, scores[way.name]["recall"]["mad"]["R1@0.3"], scores[way.name]["cost"]["frame_share"],
            scores[way.name]["cost"]["llm_tokens_per_query"],
        )
        for way in answers
    ]  # fmt: skip


def choose(tried: Sequence[Tried]) -> Tried:
    """The one that finds most; of equals the one with the fewest tokens, then the first.

    Raises:
      ConfigError: nothing was tried, or nothing could be found.
    """
    if not tried:
        raise ConfigError("no policy of this run stays within the budget; expected a larger budget.")
    if any(math.isnan(one.recall) for one in tried):
        raise ConfigError("no query of val has a moment: no way to search is better than another; expected some.")
    return min(tried, key=lambda one: (-one.recall, one.tokens))
