"""Evaluations that are killed, and evaluations of two hosts: in the end the same `metrics.json`."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import revision_jax
from revision_jax.evaluation import hosts
from revision_jax.evaluation.methods import Logged, answer
from revision_jax.evaluation.predictions import Prediction, PredictionLog
from revision_jax.metrics.cost import Cost
from revision_jax.parallel import multihost

REPO = Path(revision_jax.__file__).parents[1]
MEASURED = ("measured", "compilations")  # seconds, memory, and what a process compiled


def _plain(value):
    if isinstance(value, list):
        return [_plain(item) for item in value]
    named = isinstance(value, dict)
    return {key: _plain(item) for key, item in value.items() if key not in MEASURED} if named else value


def _start(workdir, **env):
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPO)} | env
    command = [sys.executable, "-m", "revision_jax.evaluate", "--workdir", str(workdir)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def workdir(trained_run, tmp_path):
    folder = Path(shutil.copytree(trained_run.workdir, tmp_path / "run"))
    shutil.rmtree(folder / "eval")
    return folder


def _expected(trained_run):
    return _plain(json.loads((trained_run.workdir / "eval/metrics.json").read_text()))


def test_a_kill_and_the_same_command_again(trained_run, workdir):
    log = workdir / "eval/predictions.jsonl"
    process = _start(workdir)
    while process.poll() is None and not (log.exists() and '"cost"' in log.read_text()):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL and not (workdir / "eval/metrics.json").exists()
    again = _start(workdir)
    out, _ = again.communicate()
    assert again.returncode == 0, out[-3000:]
    assert _plain(json.loads((workdir / "eval/metrics.json").read_text())) == _expected(trained_run)


def test_two_hosts_share_the_videos_and_score_them_all(trained_run, workdir):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    shared["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    processes = [_start(workdir, JAX_PROCESS_ID=str(i), **shared) for i in range(2)]
    outs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(out[-2500:] for out in outs)
    metrics = json.loads((workdir / "eval/metrics.json").read_text())
    assert metrics["measured"]["hosts"] == 2
    assert _plain(metrics) == _expected(trained_run)
    # One file holds everything; the table was printed once.
    assert [path.name for path in (workdir / "eval").glob("predictions.*")] == ["predictions.jsonl"]
    assert sum("CLIP frame retrieval" in out for out in outs) == 1


class _Split:
    """Two videos of one query each."""

    store, name = None, "test"

    def __init__(self):
        query = lambda name: type("Query", (), {"query_id": name, "video_id": name, "sentence": "", "moments": ()})()
        self.queries = {name: [query(name)] for name in ("v0", "v1")}


def test_part_of_a_run_is_never_scored_as_a_whole(tmp_path, monkeypatch):

    ask = lambda store, video_id, queries: ([Prediction(video_id, np.zeros((0, 3)))], Cost(videos=1))
    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    for name in ("meet", "meet_patiently", "advance"):
        monkeypatch.setattr(multihost, name, lambda what: None)
    path = tmp_path / "predictions.jsonl"
    of = lambda identity: [Logged({"depth1": ask}, path, identity)]
    with pytest.raises(ValueError, match="1 of 2 videos were not answered, first 'v1'"):
        answer(_Split(), of("a"))
    # The second host, later: it finds what the first one wrote, and a log of another identity does not count.
    monkeypatch.setattr(hosts.jax, "process_index", lambda: 1)
    predictions, cost = answer(_Split(), of("a"))["depth1"]
    assert [p.query_id for p in predictions] == ["v0", "v1"] and cost.videos == 2
    with pytest.raises(ValueError, match="first 'v0'"):
        answer(_Split(), of("b"))


def test_logs_of_hosts_are_merged_once(tmp_path):

    path, other = tmp_path / "predictions.jsonl", tmp_path / "predictions.host1.jsonl"
    queries = _Split().queries
    for file, video in ((path, "v0"), (other, "v1"), (other, "v0")):
        PredictionLog(file, "a").append("depth1", queries[video], [Prediction(video, np.zeros((0, 3)))], Cost(videos=1))
    log = PredictionLog(path, "a", [other])
    assert log.get("depth1", "v1") is not None
    log.merge([other])
    assert not other.exists()
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 and PredictionLog(path, "a").get("depth1", "v1") is not None
