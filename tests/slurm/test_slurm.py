"""`launch/slurm_gpu.sh` on a real SLURM of two nodes, which is started here. Opt-in:

apt-get install slurm-wlm && pytest -m slurm -n 0 tests/slurm      # as root, minutes
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from study_file import dense, row, write_study
from tiny_base import config_of, make_base, overrides_of

from revision_jax import evaluate
from revision_jax.runs.splits import prepare_data
from tests.slurm import cluster

pytestmark = pytest.mark.slurm
REPO = Path(__file__).parents[2]
LAUNCH = REPO / "launch/slurm_gpu.sh"
JOB = ["--gpus-per-node=8", "--cpus-per-task=4", "--open-mode=append"]
END = ("COMPLETED", "FAILED", "NODE_FAIL", "CANCELLED", "TIMEOUT")
STEPS = 160
WHO = "import os; from revision_jax.parallel.clusters import find_cluster; print(find_cluster(os.environ))"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[cluster.Cluster]:
    assert not cluster.missing(), f"{cluster.missing()} are not installed: apt-get install slurm-wlm"
    assert os.geteuid() == 0, "slurmctld, slurmd and /etc/hosts need root"
    with cluster.cluster(tmp_path_factory.mktemp("slurm") / "cluster") as here:
        path = f"{Path(sys.executable).parent}:{here.env['PATH']}"
        here.env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPO), "PYTHONUNBUFFERED": "1", "PATH": path}
        yield here


class Job:
    """A job in the queue."""

    def __init__(self, slurm: cluster.Cluster, log: Path, *arguments: object):
        self.env, self.log = slurm.env, log
        command = ["sbatch", "--parsable", f"--output={log}", *JOB, *map(str, arguments)]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, cwd=REPO)
        assert done.returncode == 0, done.stderr
        self.number = done.stdout.strip()

    def shown(self) -> list[dict[str, str]]:
        """The fields of the job, or of each task of its array."""
        command = ["scontrol", "show", "job", self.number, "-o"]
        lines = subprocess.run(command, env=self.env, capture_output=True, text=True).stdout.splitlines()
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in lines]

    def wait(self, *states: str, seconds: float = 400) -> dict[str, str]:
        """The job's fields once it, or all of its array, is in one of these states."""
        deadline = time.monotonic() + seconds
        while not all(task["JobState"] in states for task in self.shown()):
            assert time.monotonic() < deadline, f"{self.shown()}\n{self.said()[-3000:]}"
            time.sleep(0.3)
        return self.shown()[0]

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_until_said(self, pattern: str, times: int = 1, seconds: float = 400) -> None:
        deadline = time.monotonic() + seconds
        while len(re.findall(pattern, self.said())) < times:
            assert time.monotonic() < deadline, f"{self.shown()}\n{self.said()[-3000:]}"
            time.sleep(0.1)

    def cancel(self, *options: str) -> None:
        subprocess.run(["scancel", *options, self.number], env=self.env, check=True)

    def start_again(self) -> None:
        """Waits until it is back in the queue, and leaves out the two minutes that SLURM lets it wait there."""
        self.wait("PENDING", seconds=120)
        time.sleep(2)  # within the second in which a job ended, its node launches it not again
        subprocess.run(["scontrol", "update", f"JobId={self.number}", "StartTime=now"], env=self.env, check=True)


def test_a_batch_script_is_alone_and_its_step_is_not(slurm, tmp_path):
    script = tmp_path / "who.sh"
    script.write_text(f"#!/bin/bash\npython -c '{WHO}'\nsrun python -c '{WHO}'\n")
    job = Job(slurm, tmp_path / "log.txt", "--nodes=2", "--ntasks-per-node=1", script)
    assert job.wait(*END)["JobState"] == "COMPLETED", job.said()
    alone, *steps = job.said().splitlines()
    assert alone == "None" and len(steps) == 2 and all("hosts=('n1', 'n2')" in step for step in steps)


def test_a_config_error_is_not_queued_again(slurm, tmp_path):
    job = Job(slurm, tmp_path / "log.txt", LAUNCH, "--workdir", tmp_path / "run", "--config.train.steps=-1")
    shown = job.wait(*END)
    assert (shown["JobState"], shown["ExitCode"], shown["Restarts"]) == ("FAILED", "2:0", "0")
    assert "error: train.steps is -1" in job.said()


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Of a tiny training whose data are there."""
    folder = tmp_path_factory.mktemp("tiny")
    changes = {"train__steps": STEPS, "train__log_every": 1, "train__checkpoint_every": 50, "data__test_videos": 2}
    given = make_base(folder / "base"), folder / "data"
    prepare_data(config_of(*given, **changes))
    return [f"--config.{key}={value}" for key, value in overrides_of(*given, **changes).items()]


@pytest.fixture(scope="module")
def calm(slurm, flags, tmp_path_factory):
    """A run on two nodes that nothing disturbs."""
    folder = tmp_path_factory.mktemp("calm")
    job = Job(slurm, folder / "log.txt", "--nodes=2", LAUNCH, "--workdir", folder / "run", *flags)
    assert job.wait(*END)["JobState"] == "COMPLETED", job.said()[-3000:]
    return folder / "run"


def losses(workdir: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


def test_a_run_that_is_disturbed_three_times_ends_with_the_losses_of_one_that_is_not(slurm, flags, calm, tmp_path):
    """SIGTERM to the steps, SIGTERM to the batch shell alone, and a node that dies."""
    job = Job(slurm, tmp_path / "log.txt", "--nodes=2", LAUNCH, "--workdir", tmp_path / "run", *flags)
    job.wait_until_said(r"step +10/")
    job.cancel("--signal=TERM")
    job.wait_until_said("back into the queue")
    job.start_again()
    job.wait_until_said(r"resumes from step")
    job.wait_until_said(r"step +50/")
    job.cancel("--batch", "--signal=TERM")
    job.wait_until_said("back into the queue", times=2)
    job.start_again()
    job.wait_until_said(r"resumes from step", times=2)
    job.wait_until_said(r"step +100/")
    slurm.kill_node("n2")
    job.wait("PENDING", "COMPLETING", *END, seconds=120)
    slurm.start_node("n2")
    slurm.wait()
    job.start_again()
    shown = job.wait(*END)
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "3"), job.said()[-3000:]
    assert [step for step, _ in losses(calm)] == list(range(1, STEPS + 1))
    assert losses(tmp_path / "run") == losses(calm)
    assert job.said().count("evaluate, on as many hosts") == 1
    assert job.said().count("resumes from step") == 3


def test_a_time_limit_saves_before_it_and_the_job_goes_back_into_the_queue(slurm, flags, tmp_path):
    long = [
        *flags,
        "--config.train.steps=1000000",
        "--config.train.log_every=50",
        "--config.train.checkpoint_every=10000",
    ]
    limit = ["--time=1", "--signal=TERM@5"]
    job = Job(slurm, tmp_path / "log.txt", *limit, "--nodes=2", LAUNCH, "--workdir", tmp_path / "run", *long)
    job.wait_until_said("back into the queue")
    shown = job.wait("PENDING")
    job.cancel()
    assert re.search(r"stopped by SIGTERM after step \d+, which is saved", job.said())
    assert (shown["Restarts"], "DUE TO TIME LIMIT" in job.said()) == ("1", False)


def test_a_job_that_a_person_cancels_stays_cancelled(slurm, flags, tmp_path):
    long = [
        *flags,
        "--config.train.steps=1000000",
        "--config.train.log_every=50",
        "--config.train.checkpoint_every=10000",
    ]
    job = Job(slurm, tmp_path / "log.txt", "--nodes=2", LAUNCH, "--workdir", tmp_path / "run", *long)
    job.wait_until_said(r"step +50/")
    job.cancel()
    job.wait(*END, "PENDING")
    time.sleep(5)
    assert job.shown()[0]["JobState"] == "CANCELLED" and "it does not go back" in job.said(), job.said()[-3000:]


def predictions(folder: Path) -> list[dict]:
    """The answers to all queries, without what they cost."""
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return sorted((line for line in lines if "moments" in line), key=lambda line: line["query_id"])


def test_two_nodes_give_the_predictions_of_one_process(slurm, calm, tmp_path):
    given = ["evaluate", "--workdir", calm, "--methods", "depth1"]
    job = Job(slurm, tmp_path / "log.txt", "--nodes=2", LAUNCH, *given, "--out", "shared")
    assert job.wait(*END)["JobState"] == "COMPLETED", job.said()[-3000:]
    metrics = json.loads((calm / "shared/metrics.json").read_text())
    assert metrics["measured"]["hosts"] == 2 and metrics["videos"] == 2
    assert evaluate.main([*map(str, given[1:]), "--out", "alone"]) == 0
    assert predictions(calm / "shared") == predictions(calm / "alone") != []


def test_a_study_goes_on(slurm, flags, tmp_path):
    """SIGTERM in the middle of its training."""
    spec = write_study(tmp_path / "mine.py", [row("windows", dense(), "depth1")])
    given = [flag for flag in flags if not flag.startswith("--config.eval.before")]  # a study sets it
    study = ["ablate", "--config", spec, "--workdir", tmp_path / "studies", "--seeds", "0", *given]
    job = Job(slurm, tmp_path / "log.txt", LAUNCH, *study)
    job.wait_until_said(r"step +10/")
    job.cancel("--signal=TERM")
    job.wait_until_said("back into the queue")
    job.start_again()
    shown = job.wait(*END)
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1"), (shown, job.said()[-3000:])
    assert job.said().count("resumes from step") == 1
    [found] = json.loads((tmp_path / "studies/small/results.json").read_text())["rows"]
    assert found["name"] == "windows" and found["steps"] == STEPS and found["by_seed"]["0"]["queries"]["present"] > 0


def test_an_array_of_prepare_merges(slurm, tmp_path):
    (tmp_path / "features").mkdir()
    queries = []
    for number in range(5):
        np.save(tmp_path / f"features/v{number}.npy", np.random.default_rng(number).normal(size=(90, 128)))
        query = {"query_id": f"q{number}", "video_id": f"v{number}", "sentence": "a star", "moments": [[3, 9]]}
        queries.append(json.dumps(query) + "\n")
    (tmp_path / "queries.jsonl").write_text("".join(queries))
    given = ["--features", tmp_path / "features", "--annotations", tmp_path / "queries.jsonl", "--split", "test"]
    prepare = [LAUNCH, "prepare", "folder", *given, "--out", tmp_path / "data"]
    job = Job(slurm, tmp_path / "%a.txt", "--array=0-2", *prepare)
    job.wait(*END)
    told = "".join((tmp_path / f"{task}.txt").read_text() for task in range(3))
    assert [task["JobState"] for task in job.shown()] == ["COMPLETED"] * 3, told
    merge = Job(slurm, tmp_path / "merge.txt", LAUNCH, "prepare", "merge", tmp_path / "data/test")
    assert merge.wait(*END)["JobState"] == "COMPLETED", merge.said()
    manifest = json.loads((tmp_path / "data/test/manifest.json").read_text())
    assert sorted(manifest["videos"]) == [f"v{number}" for number in range(5)]
