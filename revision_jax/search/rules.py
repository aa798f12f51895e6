"""What the fields of `search` may hold. Imports no JAX: configs are checked before anything is loaded."""

from collections.abc import Mapping
from typing import Any

from revision_jax.rules import ConfigError, Rule, anything, at_least, between, broken_rules, one_of
from revision_jax.search.policies import policy_names  # the names of files

CONFIDENCES = ("inverse_mean_entropy", "inverse_max_entropy", "sequence_likelihood")


def _are_shares(values: Any) -> bool:
    """Shares up to 1, or whole numbers above it."""
    sound = lambda v: isinstance(v, float | int) and (0 < v <= 1 or v == int(v) > 1)
    return bool(values) and all(map(sound, values))


# key -> (check, what is expected)
RULES: dict[str, Rule] = {
    "search.depth": at_least(0),
    "search.policy": (lambda v: v in policy_names(), "one of " + ", ".join(policy_names())),
    "search.keep": (_are_shares, "shares of the windows, in (0, 1], or numbers of windows"),
    "search.readings": at_least(1),
    "search.rescale": at_least(0.0),
    "search.confidence": one_of(*CONFIDENCES),
    "search.beam": at_least(1),
    "search.sampling": at_least(0.0),
    "search.drop_last_frame": anything,
    "search.windows": one_of("whole", "released"),
    "search.ranking": one_of("confidence", "cosine"),
    "search.top_k": at_least(1),
    "search.nms_iou": between(0.0, 1.0),
    "search.query_batch": at_least(1),
    "search.window_block": at_least(1),
    "search.decode_block": at_least(1),
    "search.question_tokens": at_least(0),
}


def check_search(values: Mapping[str, Any]) -> None:
    """Checks the fields of `search`, apart from the rest of a config.

    Args:
      values: field -> value, without the group's name.

    Raises:
      ConfigError: a field is unknown, missing, or breaks its rule or a rule between fields.
    """
    faults = broken_rules({f"search.{name}": value for name, value in values.items()}, RULES)
    faults = faults or search_conflicts(values)
    if faults:
        raise ConfigError("\n".join(faults))


def search_conflicts(search: Mapping[str, Any]) -> list[str]:
    """Rules between the fields of `search`."""
    if search["beam"] > 1 and search["sampling"]:
        return [f"search.beam is {search['beam']} and search.sampling {search['sampling']}; expected one of them."]
    return []
