"""Small files that are whole or not there; a folder for one process."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from revision_jax import config as configs
from revision_jax import evaluate, train
from revision_jax.files import LOCK, FolderInUse, alone_in, read_json, write_json


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "m.json", {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": np.float64(2)}})
    assert read_json(tmp_path / "m.json") == {"a": None, "b": [1.5, None], "c": {"d": 2.0}}
    assert read_json(tmp_path / "none.json") is None
    with pytest.raises(FileNotFoundError):
        (tmp_path / "m.json.tmp").read_text()


HOLD = """
import pathlib, sys, time
from revision_jax.files import alone_in
with alone_in(pathlib.Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold():
    """`hold(folder)` -> a process that is alone in it."""
    started = []

    def start(folder):
        command = [sys.executable, "-c", HOLD, str(folder)]
        env = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))}
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
        assert started[-1].stdout.readline() == "in\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, hold):
    first = hold(tmp_path / "run")
    told = f"run is in use by process {first.pid} on {socket.gethostname()}; wait until it ends"
    with pytest.raises(FolderInUse, match=told), alone_in(tmp_path / "run"):
        pytest.fail("two at once")
    first.send_signal(signal.SIGKILL)
    first.wait()
    with alone_in(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / LOCK).read_text()
    with alone_in(tmp_path / "run"):  # left without a kill, too
        pass


def test_the_verbs_refuse_a_folder_in_use(trained_run, hold, tmp_path, capsys):
    changed = configs.differences(configs.load(), trained_run.config)
    flags = [f"--config.{key}={value}" for key, (_, value) in changed.items()]
    first = hold(tmp_path / "run")
    assert train.main(["--workdir", str(tmp_path / "run"), *flags]) == 2
    assert f"error: {tmp_path}/run is in use by process {first.pid}" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [LOCK]
    run = shutil.copytree(trained_run.workdir, tmp_path / "trained")
    first = hold(run / "other")
    assert evaluate.main(["--workdir", str(run), "--out", "other"]) == 2
    assert f"other is in use by process {first.pid}" in capsys.readouterr().err
