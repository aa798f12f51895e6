"""Ctrl-C is put off within an import, sent again where Python cannot raise it, and never lost."""

import gc
import importlib
import signal
import sys
import time
import weakref

import pytest

from revision_jax import interrupts, leave

OPTIONAL = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
    PRESSED = True
except BaseException:  # what a library does that finds another one optional
    PRESSED = False
"""


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # is put back
    before = signal.signal(signal.SIGINT, leave)
    interrupts.install()
    yield
    signal.signal(signal.SIGINT, before)


def test_within_an_import_it_waits_for_its_end(installed, tmp_path, monkeypatch):
    (tmp_path / "an_optional_library.py").write_text(OPTIONAL)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        library = importlib.import_module("an_optional_library")
        time.sleep(5)
    assert library.PRESSED


def test_an_import_that_hangs_is_interrupted_all_the_same(installed, tmp_path, monkeypatch):
    monkeypatch.setattr(interrupts, "LONGEST_S", 0.1)
    (tmp_path / "a_library_that_hangs.py").write_text(OPTIONAL + "import time\ntime.sleep(20)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module("a_library_that_hangs")


class Thing:
    """Of a class of one's own, which may be weakly referred to."""


def test_within_a_callback_of_the_garbage_collector_it_is_sent_again(installed):
    def callback(*_):
        gc.callbacks.remove(callback)
        signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(callback)
    with pytest.raises(KeyboardInterrupt):
        gc.collect()  # which would tell of it and go on
        time.sleep(5)


def test_within_a_callback_of_a_weak_reference_it_is_sent_again(installed):
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        del thing
        time.sleep(5)
    assert reference() is None


def test_within_a_finalizer_it_is_sent_again(installed):
    class Last(Thing):
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    thing = Last()
    with pytest.raises(KeyboardInterrupt):
        del thing
        time.sleep(5)


def test_other_exceptions_that_cannot_be_raised_are_told_as_before(installed, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", interrupts.Unraisable(told.append))
    thing = Thing()
    reference = weakref.ref(thing, lambda _: 1 / 0)
    del thing
    assert reference() is None and [one.exc_type for one in told] == [ZeroDivisionError]


def test_elsewhere_it_comes_at_once(installed):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("was put off")


def test_a_handler_of_the_callers_stays():
    before = signal.getsignal(signal.SIGINT)
    interrupts.install()
    assert signal.getsignal(signal.SIGINT) is before
