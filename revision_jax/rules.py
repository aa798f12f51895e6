"""What a field may hold: the pieces that rules are made of, and the check of many values against them.

A rule is (check, what is expected). The rules themselves stand in `config_rules` and, for a search, in `search.rules`.
"""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Rule = tuple[Callable[[Any], bool], str]
# `gs://bucket/run`; also as `pathlib` writes it, `gs:/bucket/run`. Not `asset:tiny/llm`, nor `C:/`.
REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
LOCAL = (
    "a path on a disk that every host sees, such as a shared volume or a mounted bucket "
    "(`gcsfuse BUCKET /mnt/BUCKET`, then /mnt/BUCKET/...); addresses such as gs:// are not opened"
)


class ConfigError(ValueError):
    """A config that cannot be used; the message names the key."""


def at_least(low: float) -> Rule:
    """No less than a number."""
    return lambda v: v >= low, f"at least {low}"


def between(low: float, high: float) -> Rule:
    """A number in a closed interval."""
    return lambda v: low <= v <= high, f"between {low} and {high}"


def above_zero(most: float) -> Rule:
    """A number above 0, at most another."""
    return lambda v: 0 < v <= most, f"greater than 0, at most {most:g}"


def one_of(*options: str) -> Rule:
    """One of some words."""
    return lambda v: v in options, "one of " + ", ".join(options)


def is_remote(path: Any) -> bool:
    """Whether a path is an address, which `pathlib` would take for a folder here."""
    return isinstance(path, str | os.PathLike) and REMOTE.match(os.fspath(path)) is not None


def check_local(name: str, path: Any) -> None:
    """Raises `ConfigError` where what is given under a name is an address; anything but a path passes."""
    if is_remote(path):
        raise ConfigError(f"{name} is {os.fspath(path)!r}; expected {LOCAL}.")


a_path: Rule = (lambda v: not is_remote(v), LOCAL)
positive: Rule = (lambda v: v > 0, "greater than 0")
anything: Rule = (lambda v: True, "anything")
fraction: Rule = (lambda v: 0 <= v < 1, "a fraction in [0, 1)")


def whole_numbers(low: int) -> Callable[[Any], bool]:
    """The check of a tuple of whole numbers, each at least `low`."""
    return lambda v: bool(v) and all(type(n) is int and n >= low for n in v)


def broken_rules(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """Unknown and missing keys; without any, the values that break their rules."""
    faults = [unknown_key(key, rules) for key in values if key not in rules]
    faults += [f"{key} is missing; expected {rules[key][1]}." for key in rules if key not in values]
    if not faults:
        for key, value in values.items():
            check, expected = rules[key]
            if (isinstance(value, float) and not math.isfinite(value)) or not _holds(check, value):
                faults.append(f"{key} is {value!r}; expected {expected}.")
    return faults


def _holds(check: Callable[[Any], bool], value: Any) -> bool:
    """Whether a value, perhaps of a type that the check does not know, passes it."""
    try:
        return bool(check(value))
    except (TypeError, AttributeError, ValueError):
        return False


# Fields that had another name when runs were saved: section.field then -> section.field now.
RENAMED = {"base.clip": "base.encoder"}


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The message about a key that there is not, with the nearest ones."""
    if key in RENAMED:
        return f"unknown config key {key!r}; it is called {RENAMED[key]} now."
    near = difflib.get_close_matches(key, list(known), n=3, cutoff=0.4)
    # `--config.batch_size` is close to `train.batch_size` in meaning, not in letters.
    near += [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2] and k not in near]
    return f"unknown config key {key!r}" + (f"; did you mean {', '.join(near)}?" if near else ".")
