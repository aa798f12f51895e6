"""Log lines and speeds."""

import io

import rich.console

from revision_jax.training import progress as module
from revision_jax.training.progress import Progress


def test_speeds_and_the_log_line(monkeypatch):
    clock = iter([0.0, 1.0, 2.0, 4.0, 4.0])  # start, wait from 1 to 2, log at 4
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    out = io.StringIO()
    monkeypatch.setattr(module, "device_memory", lambda: {"device_gib": 12.25})
    progress = Progress(5, 20, peak=1e12, console=rich.console.Console(file=out, width=40))
    with progress.waiting_for_data():
        pass
    progress.count(8, 800, 5e11)
    progress.count(4, 400, 2.5e11, times=2)  # of two hosts
    rows = [{"step": step, "loss": 1.5, "token_accuracy": 0.25} for step in (6, 7)]
    timings = progress.update(rows)
    progress.close()
    speeds = {"windows_per_s": 4.0, "tokens_per_s": 400.0, "data_wait": 0.25, "step_ms": 2000.0}
    assert timings == speeds | {"mfu": 0.25, "device_gib": 12.25}
    line = "step  7/20  loss 1.5000  accuracy 0.250  2000 ms/step  4.0 windows/s  400 tokens/s  data wait 25%"
    line += "  MFU 25.0%  12.2 GiB a device\n"
    assert out.getvalue() == line


def test_nothing_finite_nothing_shown():
    out = io.StringIO()
    progress = Progress(0, 2, console=rich.console.Console(file=out))
    assert progress.update([])["windows_per_s"] == 0
    progress.close()
    assert out.getvalue() == ""


def test_what_a_device_does_not_tell_is_left_out():
    out = io.StringIO()
    progress = Progress(0, 2, console=rich.console.Console(file=out, width=40))
    timings = progress.update([{"step": 1, "loss": 1.0, "token_accuracy": 0.0}])
    progress.close()
    assert "mfu" not in timings and "MFU" not in out.getvalue()  # a CPU has no peak to compare with
