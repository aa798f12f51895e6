"""A real SLURM of two nodes on this machine, started and stopped here: slurmctld and two slurmd of Debian's packages."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
HOSTS = Path("/etc/hosts")
CONF = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
KillWait=20
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=64 RealMemory=8000 Gres=gpu:8
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=64 RealMemory=8000 Gres=gpu:8
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing() -> list[str]:
    """Programs of SLURM that are not installed."""
    return [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which sbatch finds the cluster. Needs root: the nodes' names stand in /etc/hosts meanwhile."""
    (folder / "state").mkdir(parents=True)
    devices = [folder / f"gpu{i}" for i in range(8)]
    for i, device in enumerate(devices):
        os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3 + i % 2))
    text = CONF.format(host=socket.gethostname(), folder=folder, ports=[_free_port() for _ in range(3)])
    (folder / "slurm.conf").write_text(text.lstrip())
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-7]\n")
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    before = HOSTS.read_bytes()
    HOSTS.write_bytes(before.rstrip(b"\n") + b"\n127.0.0.1 n1\n127.0.0.1 n2\n")
    started = []
    try:
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
            log = (folder / f"{command[0]}-{command[-1]}.out").open("w")
            started.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
        _wait_for_nodes(env, folder)
        yield env
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(60)
        HOSTS.write_bytes(before)


def _wait_for_nodes(env: Mapping[str, str], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        shown = subprocess.run(["scontrol", "show", "nodes", "-o"], env=env, capture_output=True, text=True).stdout
        if shown.count("State=IDLE ") == 2:
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text()[-1500:] for path in sorted(folder.glob("*.log")))
    raise RuntimeError(f"the nodes of {folder} did not come within 60 s:\n{shown}\n{logs}")
