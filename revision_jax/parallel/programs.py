"""Compiled programs, shared: what was traced and compiled once in a process is not again for an equal use of it."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax

Numbers = int | tuple[int, ...]
KEPT = 32  # jitted functions; a program that nothing has used for long is freed, on the device too


class Program:
    """A jitted function with its first arguments fixed.

    Programs of the same function whose fixed arguments are equal share what is compiled: a second model of the same
    structure, a second search or evaluation in a process, starts at once.

    Args:
      function: pure; arrays come as its later arguments.
      fixed: hashable and compared by value: structures, meshes, numbers.
      static_argnums, donate_argnums, out_shardings: as `jax.jit` has them, numbers of the later arguments.

    Attributes:
      compile_count: how many programs this one had to compile itself.
    """

    def __init__(
        self, function: Callable, *fixed: Hashable, static_argnums: Numbers = (), donate_argnums: Numbers = (),
        out_shardings: Any = None,
    ):  # fmt: skip
        places = None if out_shardings is None else jax.tree.flatten(out_shardings)
        places = places and (tuple(places[0]), places[1])
        self._jitted = _jitted(function, fixed, static_argnums, donate_argnums, places)
        self.compile_count = 0

    def __call__(self, *arguments: Any) -> Any:
        before = self._jitted._cache_size()
        result = self._jitted(*arguments)
        self.compile_count += self._jitted._cache_size() - before
        return result

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """The program for these arguments, lowered but not compiled."""
        return self._jitted.lower(*arguments)

    def trace(self, *arguments: Any) -> jax.stages.Traced:
        """The program for these arguments, arrays or their shapes, traced but not run."""
        return self._jitted.trace(*arguments)


@functools.lru_cache(KEPT)
def _jitted(function: Callable, fixed: tuple, static: Numbers, donated: Numbers, places: tuple | None) -> Callable:
    """`places`: the leaves of `out_shardings` and their tree; a tree of dicts could not be a key."""
    where = {} if places is None else {"out_shardings": jax.tree.unflatten(places[1], places[0])}
    return jax.jit(functools.partial(function, *fixed), static_argnums=static, donate_argnums=donated, **where)


def forget() -> None:
    """Frees what was compiled, where nothing uses it any more."""
    _jitted.cache_clear()
