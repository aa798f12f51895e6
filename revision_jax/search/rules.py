"""What the fields of `search` may hold. Imports no JAX: configs are checked before anything is loaded."""

from collections.abc import Mapping
from typing import Any

from revision_jax.rules import ConfigError, Rule, anything, between, broken_rules, one_of
from revision_jax.search.policies import policy_names  # the names of files

# Fields that say which windows a search looks at.
CHOOSING = ("depth", "policy", "keep", "least", "shortlist")
CONFIDENCES = ("inverse_mean_entropy", "inverse_max_entropy", "sequence_likelihood")


def _is_share(value: Any) -> bool:
    """A share up to 1, or a whole number above it."""
    return isinstance(value, float | int) and (0 < value <= 1 or (1 < value < 1e9 and value == int(value)))


def _are_shares(values: Any) -> bool:
    return bool(values) and all(map(_is_share, values))


# key -> (check, what is expected); upper limits of sizes as in `config_rules.RULES`
RULES: dict[str, Rule] = {
    "search.depth": between(0, 100),
    "search.policy": (lambda v: v in policy_names(), "one of " + ", ".join(policy_names())),
    "search.keep": (_are_shares, "shares of the windows, in (0, 1], or numbers of windows"),
    "search.least": between(1, 10**6),
    "search.shortlist": (_is_share, "a share of the windows, in (0, 1], or a number of windows"),
    "search.readings": between(1, 1000),
    "search.rescale": between(0.0, 1000.0),
    "search.similarity": between(0.0, 1000.0),
    "search.alone": (lambda v: 0 < v <= 1, "a share, above 0 and at most 1"),
    "search.verify": (lambda v: 0 <= v < 1, "a share, at least 0 and below 1"),
    "search.confidence": one_of(*CONFIDENCES),
    "search.beam": between(1, 10**4),
    "search.sampling": between(0.0, 1000.0),
    "search.drop_last_frame": anything,
    "search.windows": one_of("whole", "released"),
    "search.ranking": one_of("confidence", "cosine"),
    "search.top_k": between(1, 10**6),
    "search.nms_iou": between(0.0, 1.0),
    "search.query_batch": between(1, 10**6),
    "search.window_block": between(1, 10**6),
    "search.decode_block": between(1, 10**6),
    "search.question_tokens": between(0, 10**6),
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
    if search["ranking"] == "cosine" and (search["similarity"] or search["alone"] < 1):
        return [
            f"search.ranking is 'cosine', search.similarity {search['similarity']} and search.alone {search['alone']}; "
            "expected search.similarity=0 and search.alone=1: the released ranking has entropy and a cosine alone."
        ]
    return []
