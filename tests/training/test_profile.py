"""A trace of some steps, on request."""

from collections import Counter

import fake_run
import jax

from revision_jax.training import loop
from revision_jax.training.profile import SKIPPED, TRACED, Profile


def run(folder, **options):
    config = fake_run.make_config()
    return loop.run(config, folder, fake_run.make_task(config), **options)


def test_a_run_leaves_a_trace_that_xprof_opens(tmp_path):
    run(tmp_path / "run", profile=True)
    traces = list((tmp_path / "run/profile").glob("plugins/profile/*/*.xplane.pb"))
    assert len(traces) == 1
    times = Counter(
        stats["hlo_op"]
        for plane in jax.profiler.ProfileData.from_file(str(traces[0])).planes
        for line in plane.lines
        for event in line.events
        if (stats := dict(event.stats)).get("hlo_module") == "jit_train_step" and not event.name.startswith("end:")
    )
    assert times and min(times.values()) >= TRACED  # whole steps; more where it lies in a loop or threads share it


def test_without_asking_there_is_none(tmp_path):
    run(tmp_path / "run")
    assert not (tmp_path / "run/profile").exists()


def test_the_first_steps_of_a_start_are_left_out(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr("jax.profiler.start_trace", lambda folder: events.append("start"))
    monkeypatch.setattr("jax.profiler.stop_trace", lambda: events.append("stop"))
    with Profile(tmp_path, 100, enabled=True) as profile:
        for step in range(101, 115):
            with profile.step(step):
                events.append(step)
            profile.done(step, step)
    begin = 101 + SKIPPED
    assert events[SKIPPED] == "start" and events[SKIPPED + 1] == begin
    assert events[events.index("stop") - 1] == begin + TRACED - 1 and events.count("stop") == 1
