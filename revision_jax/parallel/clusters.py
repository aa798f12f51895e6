"""The processes of a run, read from the launcher's environment: plain variables, SLURM, GKE or a TPU VM."""

import dataclasses
import re
from collections.abc import Mapping

PORT = 8476  # of the coordinator, where the environment does not say
TPU_VM = "tpu_vm"
NO_STEP = 2**32 - 16  # from this number on, SLURM_STEP_ID names what is not started by srun: a batch shell, salloc's


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run.

    Attributes:
      source: what said so: plain | slurm | gke | tpu_vm.
      coordinator: `host:port` of process 0, processes: how many there are, process: number of this one. All None on
        a TPU VM, where JAX asks the machine itself.
      hosts: names of the processes' machines where the environment tells them, else empty.
    """

    source: str
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    hosts: tuple[str, ...] = ()

    def name(self, process: int) -> str:
        return f"process {process}" + (f" ({self.hosts[process]})" if process < len(self.hosts) else "")


def find_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The cluster that the environment names; None for a process that is alone.

    Raises:
      ValueError: variables that contradict each other or are incomplete, each named.
    """
    for finder in (_plain, _tpu_vm, _gke, _slurm):
        cluster = finder(environment)
        if cluster is not None:
            return cluster if cluster.processes != 1 else None
    return None


def _plain(env: Mapping[str, str]) -> Cluster | None:
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [name for name in names if env.get(name)]
    if not given:
        return None
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"{', '.join(given)} is set but {', '.join(missing)} is not; set all three, or none.")
    processes, process = _number(env, names[1], 1), _number(env, names[2], 0)
    if process >= processes:
        raise ValueError(f"JAX_PROCESS_ID is {process}; expected 0 to {processes - 1} (JAX_NUM_PROCESSES {processes}).")
    return Cluster("plain", env[names[0]], processes, process)


def _tpu_vm(env: Mapping[str, str]) -> Cluster | None:
    """A pod slice outside of GKE knows itself; launch/tpu_vm.sh says that this is one."""
    return Cluster(TPU_VM) if env.get("REVISION_JAX_CLUSTER") == TPU_VM else None


def _gke(env: Mapping[str, str]) -> Cluster | None:
    """GKE puts these variables into every container that asks for TPUs; of several slices also MEGASCALE ones."""
    hosts = tuple(filter(None, env.get("TPU_WORKER_HOSTNAMES", "").split(",")))
    if not hosts or "TPU_WORKER_ID" not in env or hosts == ("localhost",):
        return None
    worker = _number(env, "TPU_WORKER_ID", 0)
    slices, number = int(env.get("MEGASCALE_NUM_SLICES") or 1), int(env.get("MEGASCALE_SLICE_ID") or 0)
    first = env["MEGASCALE_COORDINATOR_ADDRESS"].partition(":")[0] if slices > 1 else hosts[0]
    # GKE does not tell the names of the other slices' hosts.
    known = hosts if slices == 1 else ()
    return Cluster("gke", f"{first}:{PORT}", slices * len(hosts), number * len(hosts) + worker, known)


def _slurm(env: Mapping[str, str]) -> Cluster | None:
    """A step of `srun`. The port comes from the job's number, so that jobs on one node do not meet.

    Outside a step, in the batch script itself or in a shell of `salloc`, a process is alone: the variables of the job
    tell of tasks that nobody has started.
    """
    if any(name not in env for name in ("SLURM_PROCID", "SLURM_JOB_ID", "SLURM_STEP_ID")):
        return None
    if _number(env, "SLURM_STEP_ID", 0) >= NO_STEP:
        return None
    tasks = int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or 1)
    nodes = expand_nodes(env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or "localhost")
    port = 2**15 + _number(env, "SLURM_JOB_ID", 0) % 2**14
    hosts = tuple(nodes) if len(nodes) == tasks else ()
    return Cluster("slurm", f"{nodes[0]}:{port}", tasks, _number(env, "SLURM_PROCID", 0), hosts)


def expand_nodes(text: str) -> list[str]:
    """SLURM's list of nodes: `gpu[01-03,7],login` -> gpu01, gpu02, gpu03, gpu7, login."""
    nodes = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        match = re.fullmatch(r"(.*?)\[([^\]]*)\](.*)", part)
        if not match:
            nodes.append(part)
            continue
        head, ranges, tail = match.groups()
        for piece in ranges.split(","):
            low, _, high = piece.partition("-")
            numbers = range(int(low), int(high or low) + 1)
            nodes += [f"{head}{number:0{len(low)}d}{tail}" for number in numbers]
    return nodes


def _number(env: Mapping[str, str], name: str, low: int) -> int:
    try:
        value = int(env[name])
    except ValueError:
        value = low - 1
    if value < low:
        raise ValueError(f"{name} is {env[name]!r}; expected a whole number from {low} on.")
    return value
