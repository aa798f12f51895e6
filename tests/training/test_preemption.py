"""SIGTERM in a run of one process: saved, left with the restart code, resumed to the bit."""

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


def test_a_run_saves_leaves_and_goes_on_to_the_bit(tmp_path, monkeypatch):
    take = loop.next_batch

    def told(iterator, step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(iterator, step)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch, pytest.raises(Preempted, match="after step 3, which is saved"):
        patch.setattr(loop, "next_batch", told)
        run(tmp_path / "run")
    assert signal.getsignal(signal.SIGTERM) == before
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"3"}
    assert run(tmp_path / "run").first_step == 3
    run(tmp_path / "whole")
    assert (tmp_path / "run/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


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
