"""A real SLURM of two nodes on this machine, started and stopped here: slurmctld and slurmd of Debian's packages."""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")
NODES = ("n1", "n2")
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
SlurmdTimeout=20
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


@dataclasses.dataclass
class Cluster:
    """A running cluster.

    Attributes:
      env: the environment in which sbatch finds it.
    """

    folder: Path
    env: dict[str, str]
    daemons: dict[str, subprocess.Popen] = dataclasses.field(default_factory=dict)

    def start(self, name: str, *command: str) -> None:
        log = (self.folder / f"{name}.out").open("a")
        self.daemons[name] = subprocess.Popen(command, env=self.env, stdout=log, stderr=log)

    def end(self) -> None:
        """Ends the daemons, and all that they started."""
        for process in reversed(self.daemons.values()):
            process.terminate()
        given = f"SLURM_CONF={self.env['SLURM_CONF']}".encode()
        for pid in _processes():
            with contextlib.suppress(OSError):
                if given in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    os.kill(pid, signal.SIGKILL)
        for process in self.daemons.values():
            process.wait(60)

    def start_node(self, name: str) -> None:
        self.start(name, "slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """As when its power fails: the daemon, what it started, and their children end at once."""
        self.daemons[name].kill()
        self.daemons[name].wait()
        tasks = [pid for pid in _processes() if self._is_task(pid, name)]
        stewards = {_parent(pid) for pid in tasks} - {1, os.getpid()}  # of SLURM, a step each
        for pid in stewards.union(tasks):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _is_task(self, pid: int, node: str) -> bool:
        with contextlib.suppress(OSError):
            given = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            return (
                f"SLURMD_NODENAME={node}".encode() in given and f"SLURM_CONF={self.env['SLURM_CONF']}".encode() in given
            )
        return False

    def wait(self, nodes: tuple[str, ...] = NODES, seconds: float = 60) -> None:
        """Until these nodes are there and idle."""
        deadline, shown = time.monotonic() + seconds, ""
        while time.monotonic() < deadline:
            command = ["scontrol", "show", "node", ",".join(nodes), "-o"]
            shown = subprocess.run(command, env=self.env, capture_output=True, text=True).stdout
            if shown.count("State=IDLE ") == len(nodes):
                return
            time.sleep(0.5)
        logs = "\n".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("*.log")))
        raise RuntimeError(f"the nodes of {self.folder} did not come within {seconds} s:\n{shown}\n{logs}")


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _parent(pid: int) -> int:
    """The parent's number; its own where the process has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Starts and stops one. Needs root: the nodes' names stand in /etc/hosts meanwhile."""
    (folder / "state").mkdir(parents=True)
    for i in range(8):
        os.mknod(folder / f"gpu{i}", 0o666 | 0o020000, os.makedev(1, 3 + i % 2))
    text = CONF.format(host=socket.gethostname(), folder=folder, ports=[_free_port() for _ in range(3)])
    (folder / "slurm.conf").write_text(text.lstrip())
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-7]\n")
    env = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    here = Cluster(folder, env)
    before = HOSTS.read_bytes()
    HOSTS.write_bytes(before.rstrip(b"\n") + b"\n127.0.0.1 n1\n127.0.0.1 n2\n")
    try:
        here.start("slurmctld", "slurmctld", "-D")
        for node in NODES:
            here.start_node(node)
        here.wait()
        yield here
    finally:
        HOSTS.write_bytes(before)
        here.end()
