"""Several processes on one machine: joining, agreeing, training alike, being preempted together."""

import json
import os
import signal
import socket
import subprocess
import sys

import fake_run
import pytest

from revision_jax.files import alone_in
from revision_jax.parallel import multihost
from tests.forced_devices import REPO, environment

FAKE_RUN = REPO / "tests/training/fake_run.py"
# What a run does before it trains, without the rest of the imports.
MEET = """
import sys
from revision_jax.parallel import multihost
try:
    multihost.initialize()
    multihost.check_equal("config", dict(text.split("=", 1) for text in sys.argv[2:]))
except (multihost.JoinError, multihost.Disagreement) as error:
    sys.exit(f"error: {error}")
"""
ALONE = """
import pathlib, sys
from revision_jax.files import FolderInUse
from revision_jax.parallel import multihost
multihost.initialize()
try:
    with multihost.alone_in(pathlib.Path(sys.argv[1]) / "free"):
        print("entered", flush=True)
    with multihost.alone_in(pathlib.Path(sys.argv[1]) / "run"):
        sys.exit("two at once")
except FolderInUse as error:
    sys.exit(f"error: {error}")
"""
# The second process has more to do than a wait may last; then it hangs.
UNEQUAL = """
import sys, time
from revision_jax.parallel import multihost
multihost.initialize()
try:
    for step in range(0 if multihost.is_first() else 8):
        time.sleep(0.5)
        multihost.advance(f"video {step}")
    multihost.meet_patiently("answered")
    print("all came", flush=True)
    time.sleep(0 if multihost.is_first() else 600)
    multihost.meet_patiently("read")
except multihost.HungHost as error:
    print(f"error: {error}")
    multihost.leave_at_once(75)
"""
FLAGS = {"train.batch_size": 8, "train.steps": 8, "train.log_every": 1, "train.checkpoint_every": 4}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(workdir, processes: int, *, only=None, changes=lambda number: {}, script=(str(FAKE_RUN),), **variables):
    """The processes of a run, started, two devices each; `changes(number)` are flags of one of them."""
    port, started = free_port(), []
    for number in range(processes) if only is None else only:
        own = environment(devices=2) | {
            "REVISION_JAX_JOIN_SECONDS": "120",
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(number),
        }
        flags = [f"{key}={value}" for key, value in (FLAGS | changes(number)).items()]
        command = [sys.executable, *script, str(workdir), *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=own | variables, **pipes))
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
    """The losses of one process with one device: this one."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert fake_run.main(str(folder), {key: str(value) for key, value in FLAGS.items()}) == 0
    return [row["loss"] for row in rows(folder)]


def test_four_processes_train_as_one_does(alone, tmp_path):
    for code, output in finish(start(tmp_path / "run", 4)):
        assert code == 0, output
        assert "0 8 1" in output.splitlines()  # one compilation each
    assert [row["loss"] for row in rows(tmp_path / "run")] == pytest.approx(alone, rel=1e-5)


def test_sigterm_to_one_stops_both_and_another_number_goes_on(alone, tmp_path, capsys):
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
    assert [row["loss"] for row in rows(tmp_path / "run")] == pytest.approx(alone[:stopped], rel=1e-5)
    assert str(stopped) in {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    # One process, this one, goes on where two were.
    assert fake_run.main(str(tmp_path / "run"), {key: str(value) for key, value in FLAGS.items()}) == 0
    assert f"{stopped} 8 0" in capsys.readouterr().out.splitlines()  # `alone` compiled the step in this process
    assert [row["loss"] for row in rows(tmp_path / "run")] == pytest.approx(alone, rel=1e-5)


def test_a_process_that_never_comes_is_named(tmp_path):
    ((code, output),) = finish(start(tmp_path, 2, only=[0], script=("-c", MEET), REVISION_JAX_JOIN_SECONDS="2"))
    assert code == 1
    assert "process 1 of 2 did not come within 2 s (plain, coordinator 127.0.0.1" in output


def test_another_config_is_refused_with_the_key(tmp_path):
    other = lambda number: {"train.learning_rate": 0.5} if number == 1 else {"train.learning_rate": 0.03}
    for code, output in finish(start(tmp_path, 2, changes=other, script=("-c", MEET))):
        assert code == 1
        assert "the hosts would not run the same config" in output
        assert "train.learning_rate: '0.03' on process 0" in output and "'0.5' on process 1" in output
        assert "train.batch_size" not in output


def test_a_folder_in_use_is_told_by_every_host_and_at_once(tmp_path):
    with alone_in(tmp_path / "run"):
        for code, output in finish(start(tmp_path, 2, script=("-c", ALONE), REVISION_JAX_MEET_SECONDS="100")):
            assert code == 1 and output.startswith("entered"), output
            assert f"error: {tmp_path}/run is in use by process {os.getpid()} on {socket.gethostname()}" in output


def test_a_host_that_hangs_is_named(tmp_path):
    stuck = lambda number: {"slow": 0.0 if number == 0 else 600.0}
    started = start(tmp_path / "run", 2, changes=stuck, REVISION_JAX_MEET_SECONDS="5")
    output = started[0].communicate(timeout=200)[0]
    started[1].kill()
    started[1].communicate()
    assert started[0].returncode == 75
    assert "waited 5 s at step 1 for process 1" in output


def test_a_host_with_more_to_do_is_waited_for_while_it_gets_on(tmp_path):
    started = start(tmp_path, 2, script=("-c", UNEQUAL), REVISION_JAX_MEET_SECONDS="2")
    output = started[0].communicate(timeout=200)[0]
    started[1].kill()
    started[1].communicate()
    assert started[0].returncode == 75, output
    waited, hung = output.splitlines()
    assert waited == "all came"
    assert "waited 2 s at read for process 1" in hung and "last at video 7" in hung


def test_one_process_has_nothing_to_join(monkeypatch):
    monkeypatch.setattr(multihost.jax.distributed, "initialize", lambda *_, **__: pytest.fail("no cluster was named"))
    multihost.initialize({})
    multihost.check_equal("config", {"a": 1})
    multihost.check_shards((0, 1))
    multihost.meet("step 1")
    multihost.advance("video 1")
    multihost.meet_patiently("answered")
    assert multihost.exchange("hosts", "a") == ["a"]
    with pytest.raises(multihost.Disagreement, match=r"read the parts \[\(1, 2\)\]"):
        multihost.check_shards((1, 2))


def test_the_code_has_a_version():
    assert len(multihost.source_sha256()) == 16 and multihost.source_sha256() == multihost.source_sha256()
