"""Several processes on one machine: joining, agreeing, training alike, being preempted together."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from revision_jax.parallel import multihost

REPO = Path(multihost.__file__).parents[2]
FAKE_RUN = REPO / "tests/training/fake_run.py"
FLAGS = {"train.batch_size": 8, "train.steps": 8, "train.log_every": 1, "train.checkpoint_every": 4}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(workdir, processes: int, *, only=None, changes=lambda number: {}, devices: int = 2, **environment):
    """The processes of a run, started; `changes(number)` are flags of one of them."""
    port, started = free_port(), []
    for number in range(processes) if only is None else only:
        own = os.environ | {
            "PYTHONPATH": str(REPO),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "REVISION_JAX_JOIN_SECONDS": "120",
        }
        if processes > 1:
            own |= {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(number),
            }
        flags = [f"{key}={value}" for key, value in (FLAGS | changes(number)).items()]
        command = [sys.executable, str(FAKE_RUN), str(workdir), *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=own | environment, **pipes))
    return started


def finish(started) -> list[tuple[int, str]]:
    """(exit code, output) of each."""
    try:
        outputs = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, out + err) for process, (out, err) in zip(started, outputs)]


def rows(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The losses of one process with one device."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert finish(start(folder, 1, devices=1)) == [(0, "0 8 1\n")] or rows(folder)
    return [row["loss"] for row in rows(folder)]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_train_as_one_does(alone, tmp_path, processes):
    for code, output in finish(start(tmp_path / "run", processes)):
        assert code == 0, output
        assert "0 8 1" in output.splitlines()  # one compilation each
    assert [row["loss"] for row in rows(tmp_path / "run")] == pytest.approx(alone, rel=1e-5)


def test_sigterm_to_one_stops_all_and_another_number_goes_on(alone, tmp_path):
    slowly = lambda number: {"slow": 0.3}
    started = start(tmp_path / "run", 2, changes=slowly)
    while (line := started[1].stdout.readline()) != "step 3\n":
        assert line, started[1].communicate()[1]
    started[1].send_signal(signal.SIGTERM)
    for code, output in finish(started):
        assert code == 75, output
        assert "stopped by SIGTERM after step" in output
    stopped = len(rows(tmp_path / "run"))
    assert 3 <= stopped < 8
    assert str(stopped) in {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    # One process goes on where two were.
    ((code, output),) = finish(start(tmp_path / "run", 1))
    assert code == 0, output
    assert f"{stopped} 8 1" in output.splitlines()
    assert [row["loss"] for row in rows(tmp_path / "run")] == pytest.approx(alone, rel=1e-5)


def test_a_process_that_never_comes_is_named(tmp_path):
    ((code, output),) = finish(start(tmp_path / "run", 2, only=[0], REVISION_JAX_JOIN_SECONDS="2"))
    assert code == 2
    assert "process 1 of 2 did not come within 2 s (plain, coordinator 127.0.0.1" in output


def test_another_config_is_refused_with_the_key(tmp_path):
    other = lambda number: {"train.learning_rate": 0.5} if number == 1 else {}
    for code, output in finish(start(tmp_path / "run", 2, changes=other)):
        assert code == 2
        assert "the hosts would not run the same config" in output
        assert "train.learning_rate: '0.03' on process 0" in output and "'0.5' on process 1" in output
        assert "train.batch_size" not in output
    assert not (tmp_path / "run").exists()


def test_a_host_that_hangs_is_named(tmp_path):
    stuck = lambda number: {"slow": 0.0 if number == 0 else 600.0}
    started = start(tmp_path / "run", 2, changes=stuck, REVISION_JAX_MEET_SECONDS="5")
    output = started[0].communicate(timeout=200)[0]
    started[1].kill()
    started[1].communicate()
    assert started[0].returncode == 75
    assert "waited 5 s at step 1 for process 1" in output


def test_one_process_has_nothing_to_join(monkeypatch):
    monkeypatch.setattr(multihost.jax.distributed, "initialize", lambda *_, **__: pytest.fail("no cluster was named"))
    multihost.initialize({})
    multihost.check_equal("config", {"a": 1})
    multihost.check_shards((0, 1))
    multihost.meet("step 1")
    assert multihost.exchange("hosts", "a") == ["a"]
    with pytest.raises(multihost.Disagreement, match=r"read the parts \[\(1, 2\)\]"):
        multihost.check_shards((1, 2))


def test_the_code_has_a_version():
    assert len(multihost.source_sha256()) == 16 and multihost.source_sha256() == multihost.source_sha256()
