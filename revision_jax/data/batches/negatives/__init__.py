"""Strategies for contrastive windows: one file each, named as in `data.negatives`, found by their file names.

To add one, add a file here with one class that derives from `strategy.Strategy`; nothing else has to change. Importing
this package imports no strategy: the rules of the config list the names, and must stay quick.
"""

import importlib
import pkgutil


def strategy_names() -> tuple[str, ...]:
    """The name of every strategy, in alphabetical order; imports none of them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find_strategy(name: str) -> type:
    """The `strategy.Strategy` class in the file `NAME.py`.

    Raises:
      ValueError: there is no such file, or it does not define exactly one class with this `name`.
    """
    if name not in strategy_names():
        raise ValueError(f"no strategy {name!r}; expected one of {', '.join(strategy_names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    found = [value for value in classes if value.__module__ == module.__name__ and value.__dict__.get("name") == name]
    if len(found) != 1:
        raise ValueError(f"{module.__file__}: found {len(found)} classes with name = {name!r}; expected one")
    return found[0]
