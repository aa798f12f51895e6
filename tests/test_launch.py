"""Launch scripts: clean shell, dry runs that start nothing, a JobSet of the right form, SLURM's restart."""

import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import kubernetes
import pytest
import yaml

from revision_jax import config as configs
from revision_jax import train, verb
from revision_jax.runs.predecessors import predecessors

LAUNCH = Path(__file__).parents[1] / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))
POD = ["--image", "i", "--topology", "v5e-16"]
EVALUATE, FOLDER = (
    ["evaluate", "--workdir", "R"],
    ["prepare", "folder", "--videos", "V", "--out", "D", "--split", "test"],
)
TRAIN = ["--config", "configs/stage1.py:mad", "--config.prompt.system=a b"]
STUDY = ["ablate", "--config", "configs/ablation.py:modules", "--workdir", "S", "--seeds", "0"]


def run(name, *arguments, path: Path | None = None, **environment):
    """A script with nothing but `path` in front of the system's commands."""
    own = os.environ | environment | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    return subprocess.run([LAUNCH / name, *arguments], env=own, capture_output=True, text=True, timeout=60)


def command(folder: Path, name: str, body: str) -> None:
    """A stand-in for a program of the cluster."""
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name):
    # Of the test extra: beside this Python, on the path or not.
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    found = subprocess.run([program, LAUNCH / name], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_a_command(name):
    done = run(name, "--help")
    assert done.returncode == 0 and f"launch/{name}" in done.stdout


def jobset(*arguments) -> dict:
    done = run("gke_jobset.sh", "--image", "IMAGE", *arguments, "--dry_run", "--", *TRAIN)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


# JobSet's own part, as its API reference has it (jobset.x-k8s.io/v1alpha2, kubernetes-sigs/jobset,
# site/content/en/docs/reference/jobset.v1alpha2.md): at each place the fields that may stand there, those that the
# server does not fill in itself first.
JOBSET = {
    "": ({"apiVersion", "kind", "metadata", "spec"}, set()),
    "spec": (
        {"replicatedJobs"},
        {"network", "successPolicy", "failurePolicy", "startupPolicy", "suspend", "coordinator", "managedBy"}
        | {"ttlSecondsAfterFinished"},
    ),
    "spec.failurePolicy": (set(), {"maxRestarts", "rules", "restartStrategy"}),
    "spec.failurePolicy.rules": ({"name", "action"}, {"onJobFailureReasons", "targetReplicatedJobs"}),
    "spec.replicatedJobs": ({"name", "template"}, {"replicas", "dependsOn", "groupName"}),
}
ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
# Why a Job of batch/v1 fails, as its condition says it.
REASONS = {"BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"}
BELOW = "spec.replicatedJobs.template"  # from here on it is batch/v1


def check_jobset(value, place: str = "") -> int:
    """Asserts the fields of JobSet's own places; how many places were met."""
    if isinstance(value, list):
        return sum(check_jobset(item, place) for item in value)
    if not isinstance(value, dict) or place == BELOW:
        return 0
    if place in JOBSET:
        needed, may = JOBSET[place]
        assert needed <= set(value) <= needed | may, place
    below = sum(check_jobset(item, f"{place}.{key}".strip(".")) for key, item in value.items())
    return below + (place in JOBSET)


def check_form(found: dict) -> None:
    """Asserts that JobSet knows its fields, and that Kubernetes' own models take the Job and its pods whole.

    The models leave out what they do not know: so what they give back is compared with what they were given.
    """
    assert check_jobset(found) == len(JOBSET)
    for rule in found["spec"]["failurePolicy"]["rules"]:
        assert rule["action"] in ACTIONS and set(rule["onJobFailureReasons"]) <= REASONS
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
    api = kubernetes.client.ApiClient()
    for job in found["spec"]["replicatedJobs"]:
        read = api.deserialize(SimpleNamespace(data=json.dumps(job["template"])), "V1JobTemplateSpec")
        assert isinstance(read.spec.template.spec, kubernetes.client.V1PodSpec)
        assert api.sanitize_for_serialization(read) == job["template"]


def test_a_field_that_kubernetes_does_not_know_is_found():
    for place, name in ((["spec"], "paralelism"), (["spec", "template", "spec"], "restartPolice")):
        found = jobset("--topology", "v5e-16")
        within = found["spec"]["replicatedJobs"][0]["template"]
        for key in place:
            within = within[key]
        within[name] = 1
        with pytest.raises(AssertionError):
            check_form(found)
    found = jobset("--topology", "v5e-16")
    found["spec"]["failurePolicy"]["maxRestart"] = 1
    with pytest.raises(AssertionError, match=r"spec\.failurePolicy"):
        check_form(found)


@pytest.mark.parametrize(
    "topology, hosts, accelerator, bounds",
    [
        ("v5e-16", 4, "tpu-v5-lite-podslice", "4x4"),
        ("v5p-128", 16, "tpu-v5p-slice", "4x4x4"),
        ("v6e-16", 4, "tpu-v6e-slice", "4x4"),
    ],
)
def test_the_jobset_has_a_pod_for_every_host(topology, hosts, accelerator, bounds):
    found = jobset("--topology", topology, "--slices", "2")
    check_form(found)
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = found["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert (job["replicas"], spec["parallelism"], spec["completions"]) == (2, hosts, hosts)
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": bounds,
    }
    (container,) = pod["containers"]
    assert container["command"] == ["python", "-m", "revision_jax.train"] and container["args"] == TRAIN
    assert container["resources"]["limits"]["google.com/tpu"] == "4"


def test_only_a_config_error_ends_the_jobset():
    spec = jobset("--topology", "v5e-16")["spec"]
    rules = spec["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rules == [{"action": "FailJob", "onExitCodes": {"containerName": "work", "operator": "In", "values": [2]}}]
    assert spec["failurePolicy"]["maxRestarts"] >= 100


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("gke_jobset.sh", ["--image", "i", "--topology", "v9-1", "--", "--x"], "unknown topology 'v9-1'"),
        ("gke_jobset.sh", ["--topology", "v5e-16", "--", "x"], "--image"),
        ("tpu_vm.sh", ["--name", "n", "--", "x"], "--zone"),
        ("tpu_vm.sh", ["--config", "x"], "unknown option --config"),
        ("tpu_vm.sh", ["--name", "n", "--zone", "z", "--", "score"], "no verb score"),
        ("gke_jobset.sh", [*POD, "--", "export", "--workdir", "R"], "no verb export for a JobSet"),
        ("gke_jobset.sh", [*POD, "--", "prepare", "merge", "D"], "works on one machine"),
        ("gke_jobset.sh", [*POD, "--slices", "2", "--", "prepare", "folder"], "--slices is 2"),
        ("slurm_gpu.sh", ["score", "--workdir", "R"], "no verb score"),
        ("slurm_gpu.sh", ["evaluate"], "no options of revision_jax.evaluate"),
        ("slurm_gpu.sh", [], "no options"),
        ("local.sh", ["--only", "dense,search"], "--only names search"),
    ],
)
def test_what_is_missing_is_said(name, arguments, message):
    done = run(name, *arguments)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("code", [75, 143])
def test_a_tpu_slice_runs_one_command_on_all_workers_and_again_after_it_was_stopped(tmp_path, code):
    once = f"[[ -e {tmp_path}/once ]] || {{ touch {tmp_path}/once; exit {code}; }}"
    body = f'printf "%s\\n" "$@" >> {tmp_path}/calls; {once}'
    command(tmp_path, "gcloud", body)
    done = run("tpu_vm.sh", "--name", "n", "--zone", "z", "--", *TRAIN, path=tmp_path)
    assert done.returncode == 0 and "starts again (1 of 100)" in done.stdout
    calls = (tmp_path / "calls").read_text()
    assert calls.count("--worker=all") == 2
    assert r"python3 -m revision_jax.train --config configs/stage1.py:mad --config.prompt.system=a\ b" in calls
    assert "REVISION_JAX_CLUSTER=tpu_vm" in calls


@pytest.mark.parametrize("code, requeued, left", [(75, True, 0), (0, False, 0), (2, False, 2)])
def test_slurm_puts_a_stopped_job_back_into_the_queue(tmp_path, code, requeued, left):
    command(tmp_path, "srun", f'printf "%s\\n" "$@" > {tmp_path}/srun.txt; exit {code}')
    command(tmp_path, "scontrol", f'echo "$@" > {tmp_path}/scontrol.txt')
    done = run("slurm_gpu.sh", *TRAIN, path=tmp_path, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(tmp_path))
    assert done.returncode == left, done.stderr
    assert (tmp_path / "srun.txt").read_text().splitlines()[-4:] == ["revision_jax.train", *TRAIN]
    assert (tmp_path / "scontrol.txt").exists() == requeued
    if requeued:
        assert (tmp_path / "scontrol.txt").read_text() == "requeue 7\n"


def test_slurm_term_that_reaches_the_batch_shell_goes_to_the_steps(tmp_path):
    """And what they return decides: the run had saved, and goes back into the queue."""
    command(
        tmp_path,
        "srun",
        f"trap 'exit 75' USR1; echo $$ > {tmp_path}/pid; touch {tmp_path}/up; for i in {{1..300}}; do sleep 0.1; done",
    )
    command(tmp_path, "scancel", f'echo "$@" > {tmp_path}/scancel.txt; kill -USR1 "$(cat {tmp_path}/pid)"')
    command(tmp_path, "scontrol", f'echo "$@" > {tmp_path}/scontrol.txt')
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
    shell = subprocess.Popen([LAUNCH / "slurm_gpu.sh", *TRAIN], env=env, stdout=subprocess.PIPE, text=True)
    while not (tmp_path / "up").exists():
        time.sleep(0.05)
    shell.send_signal(signal.SIGTERM)
    out, _ = shell.communicate(timeout=60)
    assert shell.returncode == 0 and "back into the queue" in out
    assert (tmp_path / "scancel.txt").read_text() == "--signal=TERM 7\n"
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 7\n"


def test_slurm_leaves_a_cancelled_job_out_of_the_queue(tmp_path):
    command(tmp_path, "srun", "exit 75")
    command(tmp_path, "squeue", "echo COMPLETING")
    command(tmp_path, "scontrol", f"touch {tmp_path}/scontrol.txt")
    done = run("slurm_gpu.sh", *TRAIN, path=tmp_path, SLURM_JOB_ID="7")
    assert done.returncode == 0 and "SLURM had ended the job" in done.stdout
    assert not (tmp_path / "scontrol.txt").exists()


def test_slurm_says_what_to_lower_after_a_kill_by_the_system(tmp_path):
    command(tmp_path, "srun", "exit 137")
    done = run("slurm_gpu.sh", *TRAIN, path=tmp_path, SLURM_JOB_ID="7")
    assert done.returncode == 137 and "data.prefetch" in done.stderr and "--mem" in done.stderr


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "gke_jobset.sh"])
def test_a_dry_run_starts_nothing(name, tmp_path):
    for program in ("gcloud", "srun", "scontrol", "python"):
        command(tmp_path, program, f"touch {tmp_path}/started")
    arguments = {"tpu_vm.sh": ["--name", "n", "--zone", "z", "--dry_run", "--", *TRAIN]}
    done = run(name, *arguments.get(name, ["--dry_run"] + (TRAIN if name == "slurm_gpu.sh" else [])), path=tmp_path)
    assert done.returncode == 0 and "revision_jax.train" in done.stdout
    assert not (tmp_path / "started").exists()


# ------------------------------------------------------------------------------------------- other verbs
def srun(tmp_path, *arguments, code: int = 0, **environment) -> list[str]:
    """What a batch script gives srun; `code` is srun's."""
    command(tmp_path, "srun", f'printf "%s\\n" "$@" > {tmp_path}/srun.txt; exit {code}')
    command(tmp_path, "scontrol", f"touch {tmp_path}/requeued")
    done = run("slurm_gpu.sh", *arguments, path=tmp_path, SLURM_JOB_ID="7", **environment)
    assert done.returncode == 0, done.stderr
    return (tmp_path / "srun.txt").read_text().splitlines()


def parsed(verb_arguments):
    """The arguments of a verb are such as its parser takes."""
    name, *arguments = verb_arguments
    return verb.parse(importlib.import_module(f"revision_jax.{name}").make_parser(), arguments, ["config"])


def test_slurm_runs_other_verbs(tmp_path):
    assert srun(tmp_path, *EVALUATE) == ["--kill-on-bad-exit=1", "python", "-m", "revision_jax.evaluate", *EVALUATE[1:]]
    export = ["export", "--workdir", "R", "--out", "O", "--format", "peft"]
    assert srun(tmp_path, *export)[1:] == [
        "--nodes=1",
        "--ntasks=1",
        "python",
        "-m",
        "revision_jax.export",
        *export[1:],
    ]
    study = srun(tmp_path, *STUDY)
    assert study[1:] == ["--nodes=1", "--ntasks=1", "python", "-m", "revision_jax.ablate", *STUDY[1:]]
    assert parsed(STUDY).seeds == "0"
    merge = srun(tmp_path, "prepare", "merge", "D", SLURM_ARRAY_TASK_ID="1")
    assert merge[1:] == ["--nodes=1", "--ntasks=1", "python", "-m", "revision_jax.prepare", "merge", "D"]


def test_slurm_makes_a_shard_of_every_task_of_an_array(tmp_path):
    array = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_COUNT": "8"}
    found = srun(tmp_path, *FOLDER, SLURM_ARRAY_TASK_ID="3", **array)
    assert found[:3] == ["--kill-on-bad-exit=0", "--nodes=1", "--ntasks=1"] and found[-2:] == ["--shard", "3/8"]
    assert parsed(["prepare", *found[6:]]).shard == (3, 8)
    array |= {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "8"}
    done = run("slurm_gpu.sh", *FOLDER, path=tmp_path, SLURM_JOB_ID="7", SLURM_ARRAY_TASK_ID="3", **array)
    assert done.returncode == 2 and "tasks 1 to 8, 8 of them; expected --array=0-N" in done.stderr


def test_slurm_makes_a_shard_on_every_node(tmp_path):
    found = srun(tmp_path, *FOLDER)
    assert found[0] == "--kill-on-bad-exit=0" and found[1:3] == ["bash", "-c"]
    command(tmp_path, "python", 'printf "%s\\n" "$@"')
    env = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(found[1:], env=env, capture_output=True, text=True)
    assert parsed(["prepare", *done.stdout.splitlines()[2:]]).shard == (1, 2)


@pytest.mark.parametrize("arguments", [EVALUATE, FOLDER, STUDY, ["train", *TRAIN]], ids=lambda given: given[0])
def test_slurm_goes_on_with_what_was_stopped_before_it_could_save(tmp_path, arguments):
    """SIGTERM ends an evaluation and a shard at once, and a training before its first step."""
    srun(tmp_path, *arguments, code=143)
    assert (tmp_path / "requeued").exists()


def remote(*arguments) -> str:
    """The command that the workers of a TPU slice get."""
    done = run("tpu_vm.sh", "--name", "n", "--zone", "z", "--dry_run", "--", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_tpu_slice_runs_other_verbs(tmp_path):
    told = shlex.split(remote(*EVALUATE))
    assert "--worker=all" in told and "REVISION_JAX_CLUSTER=tpu_vm" in told[-1]
    assert told[-1].endswith("revision_jax.evaluate --workdir R")
    for one in (["export", "--workdir", "R"], ["prepare", "merge", "D"]):
        told = shlex.split(remote(*one))
        assert "--worker=0" in told and "TPU_PROCESS_BOUNDS=1,1,1" in told[-1] and "CLUSTER" not in told[-1]
    # A worker as it finds itself: number 2 of four.
    told = shlex.split(remote(*FOLDER))
    command(tmp_path, "curl", 'case "${@: -1}" in *number) echo 2 ;; *) echo a:1,b:2,c:3,d:4 ;; esac')
    command(tmp_path, "python3", 'printf "%s\\n" "$@"; env | grep ^TPU_')
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    (tmp_path / "revision_jax").mkdir()
    done = subprocess.run(["bash", "-c", told[-1]], env=env, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert "--worker=all" in told and parsed(["prepare", *lines[2:-3]]).shard == (2, 4), done
    assert "TPU_PROCESS_BOUNDS=1,1,1" in lines[-3:]


def test_a_jobset_runs_other_verbs(tmp_path):
    def container(*arguments) -> dict:
        done = run("gke_jobset.sh", *POD, "--dry_run", "--", *arguments)
        assert done.returncode == 0, done.stderr
        found = yaml.safe_load(done.stdout)
        check_form(found)
        return found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]

    found = container(*EVALUATE)
    assert (found["command"], found["args"]) == (["python", "-m", "revision_jax.evaluate"], EVALUATE[1:])
    found = container(*FOLDER)
    assert {"name": "TPU_PROCESS_BOUNDS", "value": "1,1,1"} in found["env"]
    args = [part.replace("$(JOB_COMPLETION_INDEX)", "2") for part in found["args"]]  # as Kubernetes does it
    assert parsed(["prepare", *args]).shard == (2, 4)
    for code, left in ((0, 0), (1, 0), (2, 2), (75, 75)):  # 1: there are gaps, and the shard is there
        command(tmp_path, "python", f"exit {code}")
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        assert subprocess.run([*found["command"], *args], env=env).returncode == left


def test_arguments_survive_as_they_are():
    odd = '--config.prompt.system=it\'s "so": $HOME'
    done = run("gke_jobset.sh", "--image", "i", "--topology", "v5e-16", "--dry_run", "--", odd)
    args = yaml.safe_load(done.stdout)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert args["containers"][0]["args"] == [odd] and json.dumps(odd) in done.stdout


def test_the_commands_of_a_local_run_are_such_as_the_program_takes():
    """A training of every stage, of which each ends with its evaluation; later ones start from earlier ones."""
    lines = [shlex.split(line)[1:] for line in run("local.sh", "--dry_run", "--root", "R").stdout.splitlines()]
    made = []
    for python, _, module, *arguments in lines:
        assert (python, module) == ("python", "revision_jax.train")
        args = verb.parse(train.make_parser(), arguments, ["config"])
        config = configs.load(args.config, args.fields)
        assert config.eval.after_training
        before = {config.init[name] for name in predecessors(config)}
        assert before <= set(made), args.config
        made.append(args.workdir)
    assert made == [f"R/{name}" for name in ("align", "dense", "sparse", "long", "unified", "retrieval")]
    (only,) = run("local.sh", "--dry_run", "--only", "long").stdout.splitlines()
    assert "configs/stage2.py --workdir" in only


# ------------------------------------------------------------------------------------------- the image
def test_what_the_image_installs_exists():
    """`launch/Dockerfile` is not built here: the wheel, extras and Python that it names are those of setup.py."""
    told, setup = (LAUNCH / "Dockerfile").read_text(), (LAUNCH.parent / "setup.py").read_text()
    default = dict(re.findall(r"^ARG (\w+)=(\S+)$", told, re.MULTILINE))
    version = re.search(r'version="([\d.]+)"', setup)[1]
    assert default["VERSION"] == version
    assert f'"Programming Language :: Python :: {default["PYTHON"]}"' in setup
    assert "COPY revision_jax-${VERSION}-py3-none-any.whl" in told  # `python -m build` names it so
    for device in re.search(r"DEVICE is (\w+) or (\w+)", told).groups():
        assert f'"{device}": [' in setup
    assert default["DEVICE"] == "gpu" and "[${DEVICE}]" in told and "Not built here" in told
    # What the JobSet and the scripts start.
    assert re.search(r"^FROM python:\$\{PYTHON\}-slim$", told, re.MULTILINE)
