"""Methods: ways to search by name, as tables, files and flags have them. A method is a depth and a policy."""

from revision_jax.search.policies import find_policy, policy_names

PLAIN = "top_down"  # the policy that a name leaves out


def method_name(depth: int, policy: str) -> str:
    """`depth3` for the plain policy, `depth3_bottom_up` for another."""
    return f"depth{depth}" if policy == PLAIN else f"depth{depth}_{policy}"


def policy_at(depth: int, policy: str) -> str:
    """The policy of a search of which only the depth was chosen: the run's own, or else the plain one.

    The plain one searches at every depth.
    """
    return policy if find_policy(policy).searches_at(depth) else PLAIN


def known_methods(max_depth: int) -> dict[str, tuple[int, str]]:
    """Method -> (depth, policy) of every way to search with so many levels, upper ones last."""
    methods = {}
    for depth in range(max_depth + 1):
        for policy in sorted(policy_names(), key=lambda name: (name != PLAIN, name)):
            if find_policy(policy).searches_at(depth):
                methods[method_name(depth, policy)] = depth, policy
    return methods


def compared_methods(max_depth: int) -> list[str]:
    """The methods that an evaluation compares where nobody chose, in the order of `known_methods`.

    Without upper levels these are the searches of all windows; with them each policy where its class says.
    """
    chosen = []
    for name, (depth, policy) in known_methods(max_depth).items():
        kind = find_policy(policy)
        deepest = max_depth if kind.most_depth is None else kind.most_depth
        wanted = kind.compared == "every" or (kind.compared == "deepest" and depth == deepest)
        if wanted and (policy == PLAIN or max_depth > 1):
            chosen.append(name)
    return chosen


def uses_upper(name: str, max_depth: int) -> bool:
    """Whether a method looks at upper levels."""
    return name in (known := known_methods(max_depth)) and known[name][0] > 1
