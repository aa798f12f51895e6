"""Finds which processes are missing, before JAX waits for all of them.

Process 0 listens at the coordinator's address. Every other process sends its number and waits for the verdict.
"""

import contextlib
import json
import socket
import time

from revision_jax.parallel.clusters import Cluster

_VERDICT_SECONDS = 10  # the verdict may come so much later than the limit
_BETWEEN_TRIES = 0.2


def missing_processes(cluster: Cluster, limit: float) -> list[int]:
    """Numbers of the processes that did not come within `limit` seconds, the same answer for all that came.

    Raises:
      ValueError: two processes have one number.
    """
    host, port = cluster.coordinator.rsplit(":", 1)
    if cluster.process == 0:
        verdict = _count(cluster, int(port), limit)
    else:
        verdict = _report(host, int(port), cluster.process, limit)
    if verdict["twice"]:
        numbers = f"0 to {cluster.processes - 1}, each once"
        raise ValueError(f"the process numbers {verdict['twice']} are given twice; expected {numbers}.")
    return verdict["missing"]


def _count(cluster: Cluster, port: int, limit: float) -> dict[str, list[int]]:
    """Process 0: waits until all have reported or time is over, then tells them."""
    deadline, connections, seen = time.monotonic() + limit, [], [0]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", port), backlog=cluster.processes))
        while len(set(seen)) < cluster.processes and time.monotonic() < deadline:
            server.settimeout(max(deadline - time.monotonic(), 0.01))
            with contextlib.suppress(TimeoutError, ValueError):  # ValueError: a stranger, who says no number
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(_VERDICT_SECONDS)
                seen.append(int(connection.makefile().readline()))
                connections.append(connection)
        verdict = {
            "missing": sorted(set(range(cluster.processes)) - set(seen)),
            "twice": sorted({number for number in seen if seen.count(number) > 1}),
        }
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(verdict).encode() + b"\n")
                connection.makefile().read()  # until the other side has closed: it keeps the port's TIME_WAIT
    return verdict


def _report(host: str, port: int, process: int, limit: float) -> dict[str, list[int]]:
    """Another process: reports, and waits for the verdict. Without one, it is process 0 that is missing."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host, port), timeout=max(deadline - time.monotonic(), 0.01)) as connection:
                connection.settimeout(limit + _VERDICT_SECONDS)
                connection.sendall(f"{process}\n".encode())
                return json.loads(connection.makefile().readline())
        except (OSError, json.JSONDecodeError):
            time.sleep(_BETWEEN_TRIES)
    return {"missing": [0], "twice": []}
