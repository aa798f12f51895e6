"""What a person sees of a run: a progress bar on a terminal, log lines everywhere, speeds in both."""

import contextlib
import time
from collections.abc import Iterator

import jax
import rich.console
import rich.progress

from revision_jax.units import GIB

COLUMNS = ("{task.completed}/{task.total} steps", "loss {task.fields[loss]}", "{task.fields[validation]}")


class Progress:
    """Counts time between logs.

    Args:
      first, last: steps done already, and in all.
      peak: FLOPs a second of all devices together; None where that is not known, then MFU is not told.
      stage: what is trained, before the bar.
      console: where it goes; default is stderr, of the first host alone.
    """

    def __init__(self, first: int, last: int, *, peak: float | None = None, stage: str = "", console=None):
        self.console = console or rich.console.Console(stderr=True, quiet=jax.process_index() > 0)
        self.last, self._peak, self._shown = last, peak, first
        self._windows = self._tokens = self._flops = 0.0
        columns = [
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            *COLUMNS,
            rich.progress.TimeRemainingColumn(),
        ]
        self._bar = rich.progress.Progress(
            *columns, console=self.console, disable=not self.console.is_terminal, transient=True
        )
        self._task = self._bar.add_task(stage, total=last, completed=first, loss="", validation="")
        self._bar.start()
        self._since, self._waited = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def count(self, windows: int, tokens: int, flops: float = 0.0, *, times: float = 1) -> None:
        """Takes a batch into account: its windows, its tokens through the language model, its model FLOPs.

        Args:
          times: by what these are multiplied: hosts that each see their part of a batch.
        """
        self._windows += windows * times
        self._tokens += tokens * times
        self._flops += flops * times

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
            timings["step_ms"] = elapsed / max(rows[-1]["step"] - self._shown, 1) * 1e3
            timings |= {"mfu": self._flops / elapsed / self._peak} if self._peak else {}
            timings |= device_memory()
            self._shown = rows[-1]["step"]
            self._show(rows[-1], timings)
        self._since, self._waited = time.perf_counter(), 0.0
        self._windows = self._tokens = self._flops = 0.0
        return timings

    def _show(self, row: dict[str, float], timings: dict[str, float]) -> None:
        self._bar.update(self._task, completed=row["step"], loss=f"{row['loss']:.4f}")
        line = (
            f"step {row['step']:{len(str(self.last))}d}/{self.last}  loss {row['loss']:.4f}  "
            f"accuracy {row['token_accuracy']:.3f}  {timings['step_ms']:.0f} ms/step  "
            f"{timings['windows_per_s']:.1f} windows/s  {timings['tokens_per_s']:.0f} tokens/s  "
            f"data wait {timings['data_wait']:.0%}"
        )
        line += f"  MFU {timings['mfu']:.1%}" if "mfu" in timings else ""
        line += f"  {timings['device_gib']:.1f} GiB a device" if "device_gib" in timings else ""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def tell_validation(self, step: int, values: dict[str, float]) -> None:
        """A line of its own for a validation; the live line keeps its loss."""
        self._bar.update(self._task, validation=f"validation {values['val_loss']:.4f}")
        line = f"step {step:{len(str(self.last))}d}/{self.last}  validation loss {values['val_loss']:.4f}  "
        line += f"accuracy {values['val_accuracy']:.3f}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._since = time.perf_counter()  # a validation is no step: the next speeds do not count it

    def close(self) -> None:
        self._bar.stop()


def device_memory() -> dict[str, float]:
    """`device_gib`: the most memory that was in use on this host's first device; empty where it is not told (CPU)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return {"device_gib": stats["peak_bytes_in_use"] / GIB} if "peak_bytes_in_use" in stats else {}
