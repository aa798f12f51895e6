"""Several hosts: joining them, agreeing on what is run, and naming the one that does not come.

Messages go over JAX's coordination service, not over the devices: a host that is missing, or that would compute
something else, is named before a collective can hang on it.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import jax

from revision_jax import files
from revision_jax.parallel.clusters import TPU_VM, Cluster, find_cluster
from revision_jax.parallel.rendezvous import missing_processes

T = TypeVar("T")
_entered = itertools.count()

JOIN_SECONDS = 300  # REVISION_JAX_JOIN_SECONDS; schedulers start hosts minutes apart
MEET_SECONDS = 1800  # REVISION_JAX_MEET_SECONDS; the first log line waits for every host to compile
# What gloo, NCCL and the coordination service say of a process that is gone.
LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "heartbeat",
    "remote process has terminated",
    "UNAVAILABLE",
)


class JoinError(RuntimeError):
    """Processes of the run did not come in time; the message names them."""


class Disagreement(RuntimeError):
    """Hosts would run different things; the message names the keys."""


class HungHost(RuntimeError):
    """A host did not come to a meeting in time; the message names it."""


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the processes that the environment names (see `clusters.py`); nothing happens for a process alone.

    Raises:
      JoinError: not all came within REVISION_JAX_JOIN_SECONDS (default 300).
      ValueError: an environment that contradicts itself.
    """
    cluster = find_cluster(environment)
    if cluster is None or jax.distributed.is_initialized():
        return
    limit = int(environment.get("REVISION_JAX_JOIN_SECONDS", JOIN_SECONDS))
    # Without a cross-host backend a CPU run would train on each host's part alone.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if cluster.source == TPU_VM:
        jax.distributed.initialize(initialization_timeout=limit)
    else:
        _join(cluster, limit)
    _service().key_value_set(f"revision_jax/host/{jax.process_index()}", socket.gethostname())
    if not is_first():  # what all hosts would say is said once; warnings and errors are each host's own
        logging.getLogger("revision_jax").setLevel(logging.WARNING)


def _join(cluster: Cluster, limit: int) -> None:
    missing = missing_processes(cluster, limit)
    if missing:
        raise JoinError(
            f"{', '.join(map(cluster.name, missing))} of {cluster.processes} did not come within {limit} s "
            f"({cluster.source}, coordinator {cluster.coordinator}). Look at the logs there; "
            "REVISION_JAX_JOIN_SECONDS sets the limit."
        )
    jax.distributed.initialize(cluster.coordinator, cluster.processes, cluster.process, initialization_timeout=limit)


def count() -> int:
    """How many processes there are."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this process writes what belongs to all."""
    return jax.process_index() == 0


def exchange(what: str, value: Any) -> list[Any]:
    """What every process gives under a name, in their order. Each name serves once a run.

    Raises:
      HungHost: a process did not give it in time.
    """
    if jax.process_count() == 1:
        return [value]
    _service().key_value_set(f"revision_jax/{what}/{jax.process_index()}", json.dumps(value))
    values = []
    for process in range(jax.process_count()):
        try:
            text = _service().blocking_key_value_get(f"revision_jax/{what}/{process}", _meet_seconds() * 1000)
        except Exception as error:  # jaxlib's own type
            raise HungHost(f"{_host(process)} did not give its {what} within {_meet_seconds()} s.") from error
        values.append(json.loads(text))
    return values


def check_equal(what: str, values: Mapping[str, Any]) -> None:
    """Every process must give the same flat mapping.

    Raises:
      Disagreement: names each key that differs, with the values of process 0 and of the first that has another.
    """
    everyone = exchange(what, {key: repr(value) for key, value in values.items()})
    faults = []
    for key in dict.fromkeys(key for each in everyone for key in each):
        found = [each.get(key, "nothing") for each in everyone]
        other = next((i for i, value in enumerate(found) if value != found[0]), None)
        if other is not None:
            faults.append(f"{key}: {found[0]} on {_host(0)}, {found[other]} on {_host(other)}")
    if faults:
        listed = "\n  ".join(faults)
        raise Disagreement(f"the hosts would not run the same {what}:\n  {listed}\nStart all with one command.")


def check_shards(shard: tuple[int, int]) -> None:
    """The hosts' parts (index, count) of a batch must be all parts there are.

    Raises:
      Disagreement: parts that nobody reads.
    """
    found = sorted({tuple(each) for each in exchange("part of the data", list(shard))})
    expected = [(index, shard[1]) for index in range(shard[1])]
    if found != expected:
        raise Disagreement(f"the hosts read the parts {found} (index, count) of each batch; expected {expected}.")


def meet(what: str) -> None:
    """Returns when every process has come here.

    Raises:
      HungHost: names those that did not come in time, and where each was last.
    """
    if jax.process_count() == 1:
        return
    service, own = _service(), f"revision_jax/last/{jax.process_index()}"
    service.key_value_set(own, what, allow_overwrite=True)
    try:
        service.wait_at_barrier(f"revision_jax/{what}", _meet_seconds() * 1000)
    except Exception as error:  # jaxlib's own type
        last = dict(service.key_value_dir_get("revision_jax/last/"))
        places = {process: last.get(f"revision_jax/last/{process}") for process in range(jax.process_count())}
        late = [f"{_host(i)}, last at {place or 'its start'}" for i, place in places.items() if place != what]
        raise HungHost(
            f"waited {_meet_seconds()} s at {what} for {'; '.join(late) or 'a host that failed'}. Look at the log "
            f"there; REVISION_JAX_MEET_SECONDS sets the limit. ({str(error).splitlines()[0]})"
        ) from error


def advance(place: str) -> None:
    """Tells those who wait in `meet_patiently` that this process gets on, and where it is."""
    if jax.process_count() > 1:
        service, own = _service(), f"revision_jax/advance/{jax.process_index()}"
        service.key_value_set(own, json.dumps([time.time(), place]), allow_overwrite=True)


def meet_patiently(what: str) -> None:
    """As `meet`, where shares of work may be unequal: a process that still advances is waited for.

    Raises:
      HungHost: names a process that neither came nor called `advance` for REVISION_JAX_MEET_SECONDS, or tells that the
        first process, which keeps what is exchanged, has ended.
    """
    if jax.process_count() == 1:
        return
    service, place = _service(), f"revision_jax/met/{what}"
    service.key_value_set(f"{place}/{jax.process_index()}", what)
    for process in range(jax.process_count()):
        before = None
        while not _came(f"{place}/{process}"):
            now = dict(service.key_value_dir_get("revision_jax/advance/")).get(f"revision_jax/advance/{process}")
            if now == before:
                last = json.loads(now)[1] if now else "its start"
                raise HungHost(
                    f"waited {_meet_seconds()} s at {what} for {_host(process)}, last at {last}. Look at the log "
                    "there; REVISION_JAX_MEET_SECONDS sets the limit."
                )
            before = now


def _came(key: str) -> bool:
    """Whether a key is there within the time that a process is waited for."""
    try:
        _service().blocking_key_value_get(key, _meet_seconds() * 1000)
    except Exception as error:  # jaxlib's own type
        if "DEADLINE_EXCEEDED" in str(error):
            return False
        said = str(error).splitlines()[0]
        raise HungHost(f"a host of the run has ended; look at the logs there. ({said})") from error
    return True


def lost_host(error: Exception) -> str | None:
    """One line for an error of the devices' library that comes of another host's end; None for any other error."""
    said = str(error).splitlines()[0] if str(error) else ""
    if not isinstance(error, jax.errors.JaxRuntimeError) or not any(sign in str(error) for sign in LOST):
        return None
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return None
    return f"another host of the run has ended; look at the logs of the others. ({said[:200]})"


def leave_at_once(code: int) -> NoReturn:
    """Ends this process. The usual way out would wait for the host that hangs."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def one_after_another(what: str, make: Callable[[], T]) -> T:
    """`make()` on the first host, then on the others, who find what it made on the shared disk."""
    if jax.process_index() > 0:
        meet(what)
        return make()
    made = make()
    meet(what)
    return made


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """`files.alone_in` of the first host, for all hosts of a run: where it is refused, each of them is.

    Raises:
      FolderInUse: names the host and the process that is there.
    """
    with contextlib.ExitStack() as held:
        refused = ""
        if is_first():
            try:
                held.enter_context(files.alone_in(folder))
            except files.FolderInUse as error:
                refused = str(error)
        if refused := exchange(f"folder {next(_entered)}", refused)[0]:
            raise files.FolderInUse(refused)
        yield


def source_sha256() -> str:
    """Content hash of this package's code, so that hosts with another version are found."""
    folder, total = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return total.hexdigest()[:16]


def _meet_seconds() -> int:
    return int(os.environ.get("REVISION_JAX_MEET_SECONDS", MEET_SECONDS))


def _service():
    """The client of JAX's coordination service; jax.experimental.multihost_utils reaches it the same way."""
    from jax._src import distributed

    return distributed.global_state.client


def _host(process: int) -> str:
    found = dict(_service().key_value_dir_get("revision_jax/host/"))
    return f"process {process} ({found.get(f'revision_jax/host/{process}', 'unknown host')})"
