"""The registry of policies: every file of this package is one policy, named as the file.

A new policy is a new file here, with one subclass of `search.policy.Policy` whose `name` is the file's; nothing else
has to be changed. `policy_names` reads the names of the files only, so that config checks and `--help` stay quick.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from revision_jax.search.policy import Policy  # imports jax


def policy_names() -> tuple[str, ...]:
    """The names of all policies, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find_policy(name: str) -> type["Policy"]:
    """The class of a policy, a subclass of `search.policy.Policy`.

    Raises:
      ValueError: there is no such policy.
      TypeError: its file does not define exactly one class, or one of another name.
    """
    if name not in policy_names():
        raise ValueError(f"search.policy is {name!r}; expected one of {', '.join(policy_names())}.")
    module = importlib.import_module(f"{__name__}.{name}")
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    if len(own) != 1 or own[0].name != name:
        raise TypeError(f"{module.__file__} defines {own}; expected one policy, whose name is {name!r}.")
    return own[0]
