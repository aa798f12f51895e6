"""What a checkpoint says of itself: what it belongs to, the shapes and checksums of its parts, its own checksum."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from revision_jax.checksums import checksums, leaf_name, plain_sha256
from revision_jax.config_rules import ADDED, flatten
from revision_jax.rules import RENAMED

UNSUMMED = {"config", "base", "params"}  # what a record held before there were checksums


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a checkpoint belongs to.

    Attributes:
      config: the run's config as plain values.
      base: role ("llm") -> {"path", "sha256"} of a frozen part.
    """

    config: Mapping[str, Any]
    base: Mapping[str, Mapping[str, str]]


def config_changes(
    saved: Mapping[str, Any], now: Mapping[str, Any], free: Sequence[str] = ()
) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """The keys in which two configs differ: (those that may, those that may not), key -> (saved, now).

    Args:
      saved, now: nested plain values; lists and tuples count as equal, None stands where a key is missing.
      free: keys that may differ; one that ends with a dot ("search.") frees all keys that begin with it.
    """
    plain = (flatten(json.loads(json.dumps(config))) for config in (saved, now))
    a, b = (ADDED | {RENAMED.get(key, key): value for key, value in values.items()} for values in plain)
    changed = {key: (a.get(key), b.get(key)) for key in sorted(a | b) if a.get(key) != b.get(key)}
    prefixes = tuple(key for key in free if key.endswith("."))
    allowed = {key: pair for key, pair in changed.items() if key in free or key.startswith(prefixes)}
    return allowed, {key: pair for key, pair in changed.items() if key not in allowed}


def base_of(saved: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """The files of a record by the roles that they have now."""
    return {RENAMED.get(f"base.{role}", role).removeprefix("base."): part for role, part in saved["base"].items()}


def make_record(meta: Meta, params: Any, metrics: Mapping[str, Any], sums: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a step.

    Args:
      metrics: what is saved beside it to rank steps.
      sums: checksums of its parts other than these.
    """
    sums = {"params": checksums(params), "metrics": plain_sha256(dict(metrics)), **sums}
    record = {**dataclasses.asdict(meta), "params": _shapes(params), "sums": sums}
    return record | {"sha256": plain_sha256(record)}


def is_whole(record: Any) -> bool:
    """Whether a record is what `make_record` made."""
    own = dict(record) if isinstance(record, dict) else {}
    return own.pop("sha256", None) == plain_sha256(own) and {*UNSUMMED, "sums"} <= own.keys()


def mismatches(saved: Mapping[str, Any], meta: Meta, params: Any, roles: Sequence[str]) -> list[str]:
    """Files and parameters in which a record differs from a run, each with both sides.

    Args:
      roles: of the files that are compared.
    """
    faults, before = [], base_of(saved)
    for role in roles:
        old, new = before.get(role, {}), meta.base.get(role, {})
        if old.get("sha256") != new.get("sha256"):
            faults.append(f"{role}: trained on {_named(old)}, found {_named(new)}")
    old, new = saved["params"], _shapes(params)
    for path in sorted(old | new):
        if old.get(path) != new.get(path):
            faults.append(f"parameter {path}: saved {old.get(path)}, expected {new.get(path)}")
    return faults


def listed(changed: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """A line for each key of a config that changed."""
    return [f"{key}: saved {old!r}, now {new!r}" for key, (old, new) in changed.items()]


def _shapes(params: Any) -> dict[str, list]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {leaf_name(path): [list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves}


def _named(part: Mapping[str, str]) -> str:
    return f"{part['path']} (sha256 {part['sha256'][:12]})" if part else "nothing"
