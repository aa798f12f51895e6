"""Keys of other people's JSON: one that is neither used nor known to change nothing is refused, unless it is allowed.

`--allow-unknown KEY` of the verbs, or `with allowing(["KEY"]):` around calls from Python, goes on in spite of a key.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

FLAG = "--allow-unknown"
_allowed: dict[str, bool] = {}  # key -> whether a file had it
log = logging.getLogger(__name__)


@contextlib.contextmanager
def allowing(keys: Collection[str]) -> Iterator[None]:
    """Within this, files may have these keys although nobody here knows them; one that no file had is told."""
    before = dict(_allowed)
    _allowed.update(dict.fromkeys(keys, False))
    try:
        yield
        for key in (key for key in keys if not _allowed[key]):
            log.warning("%s %s had no effect: no file that was read has this key, or it is known here", FLAG, key)
    finally:
        _allowed.clear()
        _allowed.update(before)


def unknown_keys(raw: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """The keys of an object that are not known, not null and not allowed, in order."""
    unknown = sorted(key for key, value in raw.items() if key not in known and value is not None)
    for key in unknown:
        if key in _allowed and not _allowed[key]:
            log.warning("%r is passed over, as %s says", key, FLAG)
            _allowed[key] = True
    return [key for key in unknown if key not in _allowed]


def told(unknown: Collection[str]) -> str:
    """What an error says of unknown keys."""
    flags = " ".join(f"{FLAG} {key}" for key in unknown)
    return f"{list(unknown)} are not known here and may change what is computed; to go on without them: {flags}"


def check_keys(where: Any, raw: Mapping[str, Any], known: Collection[str]) -> None:
    """Raises ValueError that lists the keys of `where` that are neither known nor allowed; null says nothing."""
    if unknown := unknown_keys(raw, known):
        raise ValueError(f"{where}: {told(unknown)}")


@contextlib.contextmanager
def fits(where: Any) -> Iterator[None]:
    """Within this a model's sizes are made from the values of `where`: what they do not fit is told with its name.

    Raises:
      ValueError: values that contradict each other, or that no model can have.
    """
    try:
        yield
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{where}: {error}") from error


# ------------------------------------------------------------------------------------------------- kinds of values
class Kind(NamedTuple):
    """What a key may hold: `check`, and that in words."""

    check: Callable[[Any], bool]
    words: str


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


WHOLE = Kind(lambda value: type(value) is int and value >= 1, "a whole number of at least 1")
POSITIVE = Kind(lambda value: _is_number(value) and value > 0, "a number above 0")
SHARE = Kind(lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
BOOLEAN = Kind(lambda value: type(value) is bool, "true or false")
TEXT = Kind(lambda value: type(value) is str, "text")
OBJECT = Kind(lambda value: isinstance(value, dict), "an object")
NAMES = Kind(
    lambda value: type(value) is str or (isinstance(value, list) and all(type(name) is str for name in value)),
    "text, or a list of texts",
)


def or_null(kind: Kind) -> Kind:
    """The kind, or null."""
    return Kind(lambda value: value is None or kind.check(value), f"{kind.words}, or null")


def wrong_kinds(raw: Mapping[str, Any], kinds: Mapping[str, Kind], needed: Collection[str] = ()) -> list[str]:
    """A line for each key that is of another kind, and one for the needed keys that are missing."""
    wrong = [
        f"{key} is {str(raw[key])[:80]!r}; expected {kind.words}"
        for key, kind in kinds.items()
        if key in raw and not kind.check(raw[key])
    ]
    missing = [key for key in needed if key not in raw]
    return wrong + ([f"lacks {missing}"] if missing else [])


def check_kinds(where: Any, raw: Mapping[str, Any], kinds: Mapping[str, Kind], needed: Collection[str] = ()) -> None:
    """Raises ValueError that lists what `wrong_kinds` finds."""
    if wrong := wrong_kinds(raw, kinds, needed):
        raise ValueError(f"{where}: " + "; ".join(wrong))
