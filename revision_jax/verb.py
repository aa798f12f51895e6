"""The skeleton of all verbs: flags parsed, logging, errors that a person can mend, exit codes.

A verb's file holds its flags and one function that does the work, `act(args)`. Its imports stand at the top like
anywhere else; `--help` waits for none of them, see `lazy.py`.
"""

import argparse
import atexit
import gc
import logging
import math
import sys
from collections.abc import Callable, Sequence

from revision_jax import INTERRUPTED, cache, disk, interrupts, known_keys, lazy
from revision_jax.quoting import escaped
from revision_jax.rules import check_local

checkpoint = lazy.module("revision_jax.checkpoint")
loop = lazy.module("revision_jax.training.loop")
multihost = lazy.module("revision_jax.parallel.multihost")
preemption = lazy.module("revision_jax.training.preemption")


LAYOUT = "\n\t"  # what a message may hold beside text
FLAGS = {
    "config": "",
    "search": "search.",
    "mesh": "mesh.",
    "model": "model.",
    "data": "data.",
}  # `--search.beam 4` sets search.beam
NO_PATHS = ("asked", "fields")  # videos and sentences; the rules of the config look at its fields
POSITIONAL = {"directory": "DIR"}
log = logging.getLogger(__name__)
Act = Callable[[argparse.Namespace], int | None]


def make_parser(name: str, doc: str, epilog: str, usage: str | None = None) -> argparse.ArgumentParser:
    """The parser of a verb, with the flags that all verbs have.

    Args:
      doc: the verb's docstring; its text before the colon is the description.
      epilog: examples, and what one must know.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m revision_jax.{name}", usage=usage, description=doc.partition(":")[0] + ".", epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    add_debug(parser)
    return parser


def add_debug(parser: argparse.ArgumentParser) -> None:
    """`--debug`."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_config(parser: argparse.ArgumentParser, default: str) -> None:
    """`--config`, whose fields are set by `--config.KEY=VALUE`."""
    help_text = "config file and preset (default: %(default)s); --config.KEY=VALUE sets a field, see below"
    parser.add_argument("--config", default=default, metavar="FILE[:PRESET]", help=help_text)


def add_unknown(parser: argparse.ArgumentParser) -> None:
    """`--allow-unknown`, of verbs that read other people's JSON."""
    help_text = (
        "go on although a model's, tokenizer's or adapter's JSON has this key, which is not known here; repeatable"
    )
    parser.add_argument(known_keys.FLAG, action="append", default=[], metavar="KEY", help=help_text)


def add_search(parser: argparse.ArgumentParser) -> None:
    """The flags of verbs that ask videos; `searched` reads them."""
    add = parser.add_argument
    add("--depth", type=int, metavar="N", help="levels of the search (default: the run's search.depth)")
    add("--policy", metavar="NAME", help="what chooses windows (default: the run's search.policy)")
    add("--keep", metavar="SHARE,..", help="what each level sends down (default: the run's own)")
    add("--budget", type=float, metavar="SHARE", help="of the dense windows: search as evaluate chose for it")
    add("--top", type=int, default=5, metavar="N", help="moments of an answer (default: %(default)s)")
    least = parser.add_mutually_exclusive_group()
    least.add_argument(
        "--min_confidence", type=float, metavar="X", help="of a moment that counts (default: evaluate's)"
    )
    least.add_argument("--always", action="store_true", help="the surest moments, however unsure they are")


def searched(args: argparse.Namespace) -> tuple[dict[str, str], float | None]:
    """The config's fields that were given, and the least confidence of a moment; None: the run's own."""
    given = {"search.depth": args.depth, "search.policy": args.policy, "search.keep": args.keep}
    fields = args.fields | {key: str(value) for key, value in given.items() if value is not None}
    return fields, -math.inf if args.always else args.min_confidence


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, fields: Sequence[str] = ()
) -> argparse.Namespace:
    """Parses flags; `args.fields` holds the fields of the config that were set, dotted key -> text.

    Args:
      fields: which of `FLAGS` this verb has: "config" for `--config.train.steps=50`, "search" for `--search.beam 4`.
    """
    args, rest = parser.parse_known_args(argv)
    args.fields, rest = {}, list(rest)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        section, dot, key = flag.removeprefix("--").partition(".")
        if not flag.startswith("--") or not dot or section not in fields:
            known = "".join(f", --{name}.KEY" for name in fields)
            parser.error(f"unknown argument {flag!r}; see --help{known}")
        if not equals:
            if not rest:
                parser.error(f"{flag} has no value; expected {flag}=VALUE")
            value = rest.pop(0)
        args.fields[FLAGS[section] + key] = value
    return args


def run(act: Act, args: argparse.Namespace, *, quiet: bool = False) -> int:
    """Does the work of a verb; returns its exit code.

    0, or what `act` returns; 2 after one clear error line; 75 where the same command should be started again; 130 after
    Ctrl-C.

    Args:
      quiet: warnings and errors only, for verbs whose output is their answer.
    """
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    logging.getLogger("revision_jax").setLevel(logging.WARNING if quiet else logging.INFO)
    atexit.register(gc.freeze)  # at its end Python looks for garbage in all libraries; a frozen object is left out
    try:
        interrupts.install()
        _check_paths(args)
        cache.keep_programs()
        with known_keys.allowing(getattr(args, "allow_unknown", ())):
            return act(args) or 0
    except KeyboardInterrupt:
        if args.debug:
            raise
        print("interrupted; the same command goes on from what is saved", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return _explain(error, args.debug)


def _check_paths(args: argparse.Namespace) -> None:
    """No flag of any verb takes an address such as gs://."""
    for name, value in vars(args).items():
        for one in value if isinstance(value, list) and name not in NO_PATHS else [value]:
            if name not in NO_PATHS:
                check_local(POSITIONAL.get(name, f"--{name.replace('_', '-')}"), one)


def _explain(error: Exception, debug: bool) -> int:
    """Tells an error that a person can mend in one message; raises any other."""
    if isinstance(error, preemption.Preempted):
        print(error, file=sys.stderr)
        return error.code
    if isinstance(error, multihost.HungHost):
        print(f"error: {error}", file=sys.stderr)
        multihost.leave_at_once(preemption.RESTART_CODE)
    if type(error).__name__ == "JaxRuntimeError" and not debug and (lost := multihost.lost_host(error)):
        print(f"error: {lost}", file=sys.stderr)
        multihost.leave_at_once(preemption.RESTART_CODE)
    # ImportError: PyTorch is optional, and a base in .bin files needs it.
    mendable = (
        ValueError, OSError, ImportError, NotImplementedError, MemoryError, checkpoint.CheckpointError,
        loop.NonFiniteLoss, multihost.Disagreement, multihost.JoinError,
    )  # fmt: skip
    full = disk.is_full(error)
    if debug or not (full or isinstance(error, mendable)):
        raise error
    told = isinstance(error, disk.FullDisk | checkpoint.CheckpointError)
    message = disk.told(error) if full and not told else str(error)
    print(f"error: {escaped(message, keep=LAYOUT)}", file=sys.stderr)
    return 2
