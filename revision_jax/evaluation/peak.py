"""How much memory this process used."""

import resource
import sys

from jax.sharding import Mesh

from revision_jax.units import GIB


def peak_memory(mesh: Mesh) -> dict[str, float | None]:
    """GiB that this process and one of its devices used at most so far; None where a device does not tell (CPU)."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    device = (mesh.local_devices[0].memory_stats() or {}).get("peak_bytes_in_use")
    return {"peak_host_gib": host / GIB, "peak_device_gib": None if device is None else device / GIB}
