"""How an evaluation differs from what the run's config says; and its flags."""

import argparse
import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from revision_jax import config as configs
from revision_jax.config import ConfigError


@dataclasses.dataclass(frozen=True)
class Options:
    """How an evaluation differs from what the run's config says.

    Attributes:
      out: folder within the work folder.
      protocol: key of `evaluation.protocols.PROTOCOLS`.
      search: fields of `SearchSettings`, over the config's and the protocol's.
      methods: some of `evaluation.methods.known_methods`, or `clip`; empty takes all that a run has (similarity alone
        only beside upper levels).
      memory_gib: what a device may use; see `Searcher`.
    """

    out: str = "eval"
    protocol: str = "ours"
    search: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    methods: tuple[str, ...] = ()
    memory_gib: float = 0.0

    def __post_init__(self):
        if self.out == "eval" and (self.protocol != "ours" or self.search or self.methods):
            raise ConfigError(
                "another protocol, search or choice of methods needs a folder of its own; give --out NAME."
            )


DEFAULT = Options()


def read_options(args: argparse.Namespace, rest: Sequence[str]) -> Options:
    """The options of a command line: known flags, and `--search.KEY VALUE` among the rest."""
    methods = tuple(name for name in args.methods.split(",") if name)
    return Options(args.out, args.protocol, read_settings(rest), methods, args.memory_gib)


def read_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """`--search.beam=4` or `--search.beam 4` -> `{"beam": 4}`: fields of `SearchSettings`, in their type.

    Raises:
      ConfigError: another argument, an unknown field, or a value of another type.
    """
    # Depth and policy are what methods differ in: --methods.
    defaults = {name: value for name, value in configs.load().search.items() if name not in ("depth", "policy")}
    values, rest = {}, [part for argument in arguments for part in argument.split("=", 1)]
    while rest:
        flag, *rest = rest
        name = flag.removeprefix("--search.")
        if name == flag or name not in defaults or not rest:
            known = ", ".join(f"--search.{known}" for known in defaults)
            raise ConfigError(
                f"unknown argument, or one without a value: {flag!r}; expected one of {known}, or --help."
            )
        text, *rest = rest
        kind = type(defaults[name])
        try:
            value = text if kind is str else ast.literal_eval(text)
            values[name] = kind(value) if kind in (tuple, float) else value
            if type(values[name]) is not kind:
                raise ValueError(text)
        except (ValueError, SyntaxError, TypeError):
            raise ConfigError(f"{flag} is {text!r}; expected a value such as {defaults[name]!r}.") from None
    return values
