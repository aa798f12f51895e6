"""A trace of a few steps that XProf and TensorBoard open."""

import contextlib
from pathlib import Path
from typing import Any

import jax

SKIPPED, TRACED = 3, 5  # the first steps compile and fill caches


class Profile:
    """A context that traces `TRACED` steps after the first `SKIPPED` ones of a start.

    Args:
      folder: where the trace goes (`plugins/profile/...`); made when it is written.
      first: steps done before.
      enabled: else nothing happens.
    """

    def __init__(self, folder: Path, first: int, *, enabled: bool):
        self.folder, self._running = folder, False
        self._begin = first + SKIPPED + 1 if enabled else None

    def __enter__(self) -> "Profile":
        return self

    def step(self, number: int) -> contextlib.AbstractContextManager:
        """The context of one step."""
        return jax.profiler.StepTraceAnnotation("train", step_num=number) if self._begin else contextlib.nullcontext()

    def done(self, number: int, result: Any) -> None:
        """Told after each step, with something that it computes: the trace holds the devices' work of whole steps."""
        if self._begin is None:
            return
        if number == self._begin - 1:
            jax.block_until_ready(result)
            jax.profiler.start_trace(str(self.folder))
            self._running = True
        elif number == self._begin + TRACED - 1:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

    def __exit__(self, *_) -> None:
        self._stop()
