"""Ctrl-C that is not lost: a KeyboardInterrupt, put off or sent again where it would be swallowed.

Within an import, a compiled library makes an ImportError of a KeyboardInterrupt, which whoever finds the library
optional passes over, or crashes. So it waits until the import has ended, or for `LONGEST_S`.
Python cannot raise it within a `__del__`, or within a callback of a weak reference or of the garbage collector (JAX has
one): it prints the exception and goes on. There it is sent again.
"""

import _thread
import signal
import sys
import threading
import time
from types import FrameType

from revision_jax import leave

AGAIN_S = 0.02  # between two looks
LONGEST_S = 5.0  # an import that hangs is interrupted all the same


class Interrupt:
    """The handler of SIGINT."""

    def __init__(self):
        self._put_off_s = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _imports(frame) and self._put_off_s < LONGEST_S:
            self._put_off_s += AGAIN_S
            _send_again()
            return
        self._put_off_s = 0.0
        signal.default_int_handler(number, frame)


class Unraisable:
    """The hook for exceptions that Python cannot raise where they occur: a KeyboardInterrupt is sent again.

    Args:
      before: the hook that was there, which is told of all others.
    """

    def __init__(self, before):
        self._before = before

    def __call__(self, unraisable) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _send_again()
        else:
            self._before(unraisable)


def install() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt: there is something to be closed. A handler of the caller's stays."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, Interrupt())
        sys.unraisablehook = Unraisable(sys.unraisablehook)


def _send_again() -> None:
    # Not `threading.Timer`: what is interrupted may hold the lock that starting one waits for.
    _thread.start_new_thread(_send_later, ())


def _send_later() -> None:
    time.sleep(AGAIN_S)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def _imports(frame: FrameType | None) -> bool:
    """Whether what runs is within an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
