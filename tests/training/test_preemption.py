"""SIGTERM and Ctrl-C in a run of one process: saved, left with their codes, resumed to the bit."""

import os
import signal
import threading

import fake_run
import pytest

from revision_jax.training import loop
from revision_jax.training.preemption import Preempted, Preemption

FIELDS = {"train__steps": 6, "train__log_every": 2, "train__checkpoint_every": 4}


def run(folder, **changes):
    config = fake_run.make_config(**FIELDS | changes)
    return loop.run(config, folder, fake_run.make_task(config))


@pytest.mark.parametrize(
    "number, text, code", [(signal.SIGTERM, "stopped by SIGTERM", 75), (signal.SIGINT, "stopped by Ctrl-C", 130)]
)
def test_a_run_saves_leaves_and_goes_on_to_the_bit(tmp_path, monkeypatch, number, text, code):
    take = loop.next_batch

    def told(iterator, step):
        if step == 3:
            os.kill(os.getpid(), number)
        return take(iterator, step)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(Preempted, match=f"{text} after step 3, which is saved") as left:
        patch.setattr(loop, "next_batch", told)
        run(tmp_path / "run")
    assert signal.getsignal(number) == before and left.value.code == code
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"3"}
    assert run(tmp_path / "run").first_step == 3
    run(tmp_path / "whole")
    assert (tmp_path / "run/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


@pytest.fixture
def ctrl_c():
    """Ctrl-C as a terminal has it: a shell's background jobs ignore it, and so do the tests that run in one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_leaves_at_once(ctrl_c):
    with pytest.raises(KeyboardInterrupt), Preemption() as preemption:
        os.kill(os.getpid(), signal.SIGINT)
        assert preemption.reached(1) and preemption.interrupted
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_thread_leaves_the_signal_to_its_process():
    found = []

    def inside():
        with Preemption() as preemption:
            found.append(preemption.reached(1))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [False] and signal.getsignal(signal.SIGTERM) == before
