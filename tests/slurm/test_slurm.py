"""`launch/slurm_gpu.sh` on a real SLURM of two nodes, which is started here. Opt-in:

apt-get install slurmctld slurmd slurm-client && pytest -m slurm -n 0 tests/slurm      # as root, minutes
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slurm
REPO = Path(__file__).parents[2]
STEPS = 600
JOB = ["--gpus-per-node=8", "--cpus-per-task=4", "--open-mode=append"]
WHO = "import os; from revision_jax.parallel.clusters import find_cluster; print(find_cluster(os.environ))"


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    import cluster

    assert not cluster.missing(), (
        f"{cluster.missing()} are not installed: apt-get install slurmctld slurmd slurm-client"
    )
    assert os.geteuid() == 0, "slurmctld, slurmd and /etc/hosts need root"
    with cluster.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as env:
        own = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1"}
        yield env | own | {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}


class Job:
    """A job in the queue."""

    def __init__(self, env, log: Path, *arguments: object):
        self.env, self.log = env, log
        command = ["sbatch", "--parsable", f"--output={log}", *JOB, *map(str, arguments)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=REPO)
        assert done.returncode == 0, done.stderr
        self.number = done.stdout.strip()

    def shown(self) -> list[dict[str, str]]:
        """The fields of the job, or of each task of its array."""
        command = ["scontrol", "show", "job", self.number, "-o"]
        lines = subprocess.run(command, env=self.env, capture_output=True, text=True).stdout.splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]

    def wait(self, *states: str, seconds: float = 400) -> dict[str, str]:
        deadline = time.monotonic() + seconds
        while not all(task["JobState"] in states for task in self.shown()):
            assert time.monotonic() < deadline, f"{self.shown()}\n{self.said()[-3000:]}"
            time.sleep(0.3)
        return self.shown()[0]

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_until_said(self, text: str, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said():
            assert time.monotonic() < deadline, self.said()[-3000:]
            time.sleep(0.2)


LAUNCH = REPO / "launch/slurm_gpu.sh"
END = ("COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED")


def test_a_batch_script_is_alone_and_its_step_is_not(env, tmp_path):
    script = tmp_path / "who.sh"
    script.write_text(f"#!/bin/bash\npython -c '{WHO}'\nsrun python -c '{WHO}'\n")
    job = Job(env, tmp_path / "log.txt", "--nodes=2", "--ntasks-per-node=1", script)
    assert job.wait(*END)["JobState"] == "COMPLETED", job.said()
    alone, *steps = job.said().splitlines()
    assert alone == "None" and len(steps) == 2 and all("hosts=('n1', 'n2')" in step for step in steps)


def test_a_config_error_is_not_queued_again(env, tmp_path):
    job = Job(env, tmp_path / "log.txt", LAUNCH, "--workdir", tmp_path / "run", "--config.train.steps=-1")
    shown = job.wait(*END)
    assert (shown["JobState"], shown["ExitCode"], shown["Restarts"]) == ("FAILED", "2:0", "0")
    assert "error: train.steps is -1" in job.said()


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Of a tiny training whose data are there."""
    from tiny_base import config_of, make_base, overrides_of

    from revision_jax.runs.splits import prepare_data

    folder = tmp_path_factory.mktemp("tiny")
    changes = {"train__steps": STEPS, "train__log_every": 1, "train__checkpoint_every": 200, "data__test_videos": 2}
    given = make_base(folder / "base"), folder / "data"
    prepare_data(config_of(*given, **changes))
    return [f"--config.{key}={value}" for key, value in overrides_of(*given, **changes).items()]


@pytest.fixture(scope="module")
def run(env, flags, tmp_path_factory):
    """A run on two nodes whose batch shell, and nothing else, got SIGTERM on the way."""
    folder = tmp_path_factory.mktemp("run")
    job = Job(env, folder / "log.txt", "--nodes=2", LAUNCH, "--workdir", folder / "run", *flags)
    job.wait_until_said("step 20/")
    subprocess.run(["scancel", "--batch", "--signal=TERM", job.number], env=env, check=True)
    job.wait_until_said("back into the queue")
    job.wait("PENDING", seconds=60)
    # SLURM lets a job that was queued again wait for two minutes.
    subprocess.run(["scontrol", "update", f"JobId={job.number}", "StartTime=now"], env=env, check=True)
    return folder / "run", job, job.wait(*END)


def test_term_to_the_batch_shell_saves_and_the_job_goes_on_by_itself(run):
    workdir, job, shown = run
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1"), job.said()[-3000:]
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    for once in ("evaluate, on as many hosts", "resumes from step"):
        assert job.said().count(once) == 1, once


def test_two_nodes_share_an_evaluation(env, run, tmp_path):
    job = Job(env, tmp_path / "log.txt", "--nodes=2", LAUNCH, "evaluate", "--workdir", run[0], "--methods", "depth1")
    assert job.wait(*END)["JobState"] == "COMPLETED", job.said()[-3000:]
    metrics = json.loads((run[0] / "eval/metrics.json").read_text())
    assert metrics["measured"]["hosts"] == 2 and metrics["videos"] == 2


def test_an_array_of_prepare_merges(env, tmp_path):
    (tmp_path / "features").mkdir()
    queries = []
    for number in range(5):
        np.save(tmp_path / f"features/v{number}.npy", np.random.default_rng(number).normal(size=(90, 64)))
        query = {"query_id": f"q{number}", "video_id": f"v{number}", "sentence": "a star", "moments": [[3, 9]]}
        queries.append(json.dumps(query) + "\n")
    (tmp_path / "queries.jsonl").write_text("".join(queries))
    given = ["--features", tmp_path / "features", "--annotations", tmp_path / "queries.jsonl", "--split", "test"]
    prepare = [LAUNCH, "prepare", "folder", *given, "--out", tmp_path / "data"]
    job = Job(env, tmp_path / "%a.txt", "--array=0-2", *prepare)
    job.wait(*END)
    told = "".join((tmp_path / f"{task}.txt").read_text() for task in range(3))
    assert [task["JobState"] for task in job.shown()] == ["COMPLETED"] * 3, told
    merge = Job(env, tmp_path / "merge.txt", LAUNCH, "prepare", "merge", tmp_path / "data/test")
    assert merge.wait(*END)["JobState"] == "COMPLETED", merge.said()
    manifest = json.loads((tmp_path / "data/test/manifest.json").read_text())
    assert sorted(manifest["videos"]) == [f"v{number}" for number in range(5)]
