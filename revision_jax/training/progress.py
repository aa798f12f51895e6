"""What a person sees of a run: a progress bar on a terminal, log lines everywhere, speeds in both."""

import contextlib
import time
from collections.abc import Iterator

import rich.console
import rich.progress

COLUMNS = ("{task.completed}/{task.total} steps", "loss {task.fields[loss]}")


class Progress:
    """Counts time between logs.

    Args:
      first, last: steps done already, and in all.
      console: where it goes; default is stderr.
    """

    def __init__(self, first: int, last: int, console=None):
        self.console = console or rich.console.Console(stderr=True)
        self.last, self._windows, self._tokens = last, 0, 0
        columns = [rich.progress.BarColumn(), *COLUMNS, rich.progress.TimeRemainingColumn()]
        self._bar = rich.progress.Progress(
            *columns, console=self.console, disable=not self.console.is_terminal, transient=True
        )
        self._task = self._bar.add_task("", total=last, completed=first, loss="")
        self._bar.start()
        self._since, self._waited = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def count(self, windows: int, tokens: int) -> None:
        """Takes a batch into account: its windows, and its tokens through the language model."""
        self._windows, self._tokens = self._windows + windows, self._tokens + tokens

    def update(self, rows: list[dict[str, float]]) -> dict[str, float]:
        """Reports the steps since the last call; returns speeds and the share of time waited for data.

        The first speeds of a run contain its compilation.
        """
        elapsed = time.perf_counter() - self._since
        timings = {
            "windows_per_s": self._windows / elapsed,
            "tokens_per_s": self._tokens / elapsed,
            "data_wait": self._waited / elapsed,
        }
        if rows:
            self._show(rows[-1], timings)
        self._since, self._waited, self._windows, self._tokens = time.perf_counter(), 0.0, 0, 0
        return timings

    def _show(self, row: dict[str, float], timings: dict[str, float]) -> None:
        self._bar.update(self._task, completed=row["step"], loss=f"{row['loss']:.4f}")
        line = (
            f"step {row['step']:{len(str(self.last))}d}/{self.last}  loss {row['loss']:.4f}  "
            f"accuracy {row['token_accuracy']:.3f}  {timings['windows_per_s']:.1f} windows/s  "
            f"{timings['tokens_per_s']:.0f} tokens/s  data wait {timings['data_wait']:.0%}"
        )
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()
