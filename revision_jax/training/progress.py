"""What a person sees of a run: a progress bar on a terminal, log lines everywhere, speeds in both."""

import contextlib
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm


class Progress:
    """Counts time between logs.

    Args:
      first, last: steps done already, and in all.
      batch_size: windows a step.
      row_tokens: tokens of a window with its prompt.
    """

    def __init__(self, first: int, last: int, batch_size: int, row_tokens: int):
        self._bar = tqdm(total=last, initial=first, unit="step", disable=not sys.stderr.isatty(), leave=False)
        self._windows, self._tokens, self._steps = batch_size, batch_size * row_tokens, last
        self._since, self._waited = time.perf_counter(), 0.0

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def update(self, rows: list[dict[str, float]]) -> dict[str, float]:
        """Reports the steps since the last call; returns speeds and the share of time waited for data."""
        elapsed = time.perf_counter() - self._since
        timings = {
            "windows_per_s": len(rows) * self._windows / elapsed,
            "tokens_per_s": len(rows) * self._tokens / elapsed,
            "data_wait": self._waited / elapsed,
        }
        if rows:
            last, width = rows[-1], len(str(self._steps))
            self._bar.update(len(rows))
            tqdm.write(
                f"step {last['step']:{width}d}/{self._steps}  loss {last['loss']:.4f}  "
                f"accuracy {last['token_accuracy']:.3f}  {timings['windows_per_s']:.1f} windows/s  "
                f"{timings['tokens_per_s']:.0f} tokens/s  data wait {timings['data_wait']:.0%}",
                file=sys.stderr,
            )
        self._since, self._waited = time.perf_counter(), 0.0
        return timings

    def close(self) -> None:
        self._bar.close()
