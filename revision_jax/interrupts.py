"""Ctrl-C that is not lost: a KeyboardInterrupt, put off while it would be swallowed.

Within an import, a compiled library makes an ImportError of a KeyboardInterrupt, which whoever finds the library
optional passes over, or crashes. Within a callback of the garbage collector, such as JAX's, Python tells of it and goes
on. So it waits until these have ended, or for `LONGEST_S`.
"""

import gc
import signal
import threading
from types import FrameType

from revision_jax import leave

AGAIN_S = 0.02  # between two looks
LONGEST_S = 5.0  # an import that hangs is interrupted all the same


class Interrupt:
    """The handler of SIGINT."""

    def __init__(self):
        self._put_off_s = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _swallowed(frame) and self._put_off_s < LONGEST_S:
            self._put_off_s += AGAIN_S
            again = threading.Timer(AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, number))
            again.daemon = True
            again.start()
            return
        self._put_off_s = 0.0
        signal.default_int_handler(number, frame)


def install() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt: there is something to be closed. A handler of the caller's stays."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, Interrupt())


def _swallowed(frame: FrameType | None) -> bool:
    """Whether what runs is within an import or a callback of the garbage collector."""
    callbacks = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code in callbacks:
            return True
        frame = frame.f_back
    return False
