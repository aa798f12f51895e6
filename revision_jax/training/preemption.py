"""Being taken away: SIGTERM and Ctrl-C are noticed between two steps, SIGTERM by all hosts at the same one."""

import signal
import threading

import jax
from jax.experimental import multihost_utils

from revision_jax import INTERRUPTED

RESTART_CODE = 75  # EX_TEMPFAIL: launchers start the same command again
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(RuntimeError):
    """The run was told to leave; its state is saved.

    Attributes:
      code: exit code of a verb.
    """

    def __init__(self, step: int, *, interrupted: bool = False):
        by, self.code = ("Ctrl-C", INTERRUPTED) if interrupted else ("SIGTERM", RESTART_CODE)
        super().__init__(f"stopped by {by} after step {step}, which is saved; the same command goes on from there.")


class Preemption:
    """A context in which SIGTERM or Ctrl-C is a question asked after each step, not the end.

    One process catches the signals itself; a second Ctrl-C ends it at once. Of several, each may get SIGTERM at another
    moment; JAX's service, which catches it there, tells all of them and agrees on a step that none has passed.
    """

    def __enter__(self) -> "Preemption":
        self._told, self._before = set(), {}
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            # In another thread whoever owns the main one decides.
            self._before = {number: signal.signal(number, self._tell) for number in SIGNALS}
        return self

    def _tell(self, number: int, _) -> None:
        self._told.add(number)
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])

    @property
    def interrupted(self) -> bool:
        """Whether a person pressed Ctrl-C."""
        return signal.SIGINT in self._told

    def reached(self, step: int) -> bool:
        """Whether to save and leave now; True at the same step on all hosts. Does not wait for a device."""
        if jax.process_count() == 1:
            return bool(self._told)
        return multihost_utils.reached_preemption_sync_point(step)

    def __exit__(self, *_) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
