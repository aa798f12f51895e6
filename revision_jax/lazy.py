"""Modules that are imported when they are first used, so that `--help` and the start of a search are quick.

`runs = lazy.module("revision_jax.runs.run")` stands at the top of a verb's file among its imports, and JAX and the rest
are loaded at the first look into it. Below the verbs this is for libraries alone that are slow to import and that a
search does without, such as grain and matplotlib; own modules are imported as usual there.
"""

import importlib
from typing import Any


class LazyModule:
    """Stands for a module; each attribute is the module's own."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)

    def __repr__(self) -> str:
        return f"LazyModule({self._name!r})"


def module(name: str) -> LazyModule:
    """The module of this name, imported when it is first used."""
    return LazyModule(name)
