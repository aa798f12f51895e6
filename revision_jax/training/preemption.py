"""Being taken away: SIGTERM is noticed between two steps, by all hosts at the same one."""

import signal

import jax
from jax.experimental import multihost_utils

RESTART_CODE = 75  # EX_TEMPFAIL: launchers start the same command again


class Preempted(RuntimeError):
    """The run was told to leave; its state is saved."""

    def __init__(self, step: int):
        super().__init__(f"stopped by SIGTERM after step {step}, which is saved; the same command goes on from there.")


class Preemption:
    """A context in which SIGTERM is a question asked after each step, not the end.

    One process catches the signal itself. Of several, each may get it at another moment; JAX's service, which
    catches it there, tells all of them and agrees on a step that none has passed.
    """

    def __enter__(self) -> "Preemption":
        self._told, self._before = False, None
        if jax.process_count() == 1:
            try:
                self._before = signal.signal(signal.SIGTERM, self._tell)
            except ValueError:  # not the main thread: then whoever owns that one decides
                self._before = None
        return self

    def _tell(self, *_) -> None:
        self._told = True

    def reached(self, step: int) -> bool:
        """Whether to save and leave now; True at the same step on all hosts. Does not wait for a device."""
        if jax.process_count() == 1:
            return self._told
        return multihost_utils.reached_preemption_sync_point(step)

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
