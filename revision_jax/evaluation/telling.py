"""How far an evaluation is: a bar on a terminal; in the log of a job, which shows no bar, a line now and then."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import rich.console
import rich.progress

EVERY_S = 30.0  # between lines of a log
T = TypeVar("T")
log = logging.getLogger(__name__)


def told(items: Sequence[T], label: str, describe: Callable[[T], str] = lambda item: "") -> Iterator[T]:
    """The items one by one, each told to be done when the next is asked for.

    Args:
      label: what is done, such as the name of a split.
      describe: what an item is, for people.
    """
    console = rich.console.Console(stderr=True)
    columns = ("{task.description}", *rich.progress.Progress.get_default_columns()[1:])
    started = last = time.monotonic()
    with rich.progress.Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(label, total=len(items))
        for number, item in enumerate(items, 1):
            words = ", ".join(word for word in (label, describe(item)) if word)
            bar.update(task, description=words)
            yield item
            bar.advance(task)
            now = time.monotonic()
            if not console.is_terminal and now - last >= EVERY_S:
                left = (now - started) / number * (len(items) - number)
                log.info("%s: %d of %d done, about %.0f min left", words, number, len(items), left / 60)
                last = now
