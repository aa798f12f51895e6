"""Compiled programs, shared: what was traced and compiled once in a process is not again for an equal use of it."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax

KEPT = 32  # jitted functions; a program that nothing has used for long is freed, on the device too


class Program:
    """A jitted function with its first arguments fixed.

    Programs of the same function whose fixed arguments are equal share what is compiled: a second model of the same
    structure, a second search or evaluation in a process, starts at once.

    Args:
      function: pure; arrays come as its later arguments.
      fixed: hashable and compared by value: structures, meshes, numbers.
      static_argnums: of the later arguments, those that are hashable too.

    Attributes:
      compile_count: how many programs this one had to compile itself.
    """

    def __init__(self, function: Callable, *fixed: Hashable, static_argnums: int | tuple[int, ...] = ()):
        self._jitted = _jitted(function, fixed, static_argnums)
        self.compile_count = 0

    def __call__(self, *arguments: Any) -> Any:
        before = self._jitted._cache_size()
        result = self._jitted(*arguments)
        self.compile_count += self._jitted._cache_size() - before
        return result

    def trace(self, *arguments: Any) -> jax.stages.Traced:
        """The program for these arguments, arrays or their shapes, traced but not run."""
        return self._jitted.trace(*arguments)


@functools.lru_cache(KEPT)
def _jitted(function: Callable, fixed: tuple, static_argnums: int | tuple[int, ...]) -> Callable:
    return jax.jit(functools.partial(function, *fixed), static_argnums=static_argnums)


def forget() -> None:
    """Frees what was compiled, where nothing uses it any more."""
    _jitted.cache_clear()
