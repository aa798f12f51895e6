"""The roofline of a compiled step: the seconds that arithmetic, memory and network take at their peaks."""

from collections.abc import Sequence
from typing import Any

from revision_jax.ahead.programs import Facts
from revision_jax.parallel.collectives import Collective
from revision_jax.parallel.topology import DCN_BYTES, Topology
from revision_jax.units import GIB


def unplanned_gathers(collectives: Sequence[Collective], facts: Facts) -> list[float]:
    """Bytes of all-gathers larger than the largest matrix of one layer: weights of many layers, or a batch, at once."""
    sizes = {one.bytes for one in collectives if one.kind == "all-gather" and one.bytes > facts["largest_matrix"]}
    return sorted(sizes, reverse=True)


def roofline(topology: Topology, facts: Facts, report: dict[str, Any]) -> dict[str, Any]:
    """Seconds that arithmetic, memory and network take at their peaks; a step takes at least the longest of them."""
    chip, chips = topology.chip, topology.num_chips
    passes = 3 if facts["executed"] > facts["flops"] * 1.2 else 2  # weights are read forward, backward, again
    touched = facts["weight_bytes"] * passes + 2 * report["parts_gib"]["activations and temporaries"] * GIB
    # A ring sends a reduced array twice. Between slices only gradients are reduced, over the slow network.
    reduced = DCN_BYTES if topology.slices > 1 else chip.ici_bytes
    seconds_a_byte = lambda kind: 2 / reduced if kind == "all-reduce" else 1 / chip.ici_bytes
    seconds = {
        "arithmetic_s": facts["executed"] / chips / chip.flops,
        "memory_s": touched / chip.hbm_bytes,
        "network_s": sum(seconds_a_byte(kind) * row["bytes"] for kind, row in report["collectives"].items()),
    }
    step = max(seconds.values())
    return {
        "model_tflops": significant(facts["flops"] / 1e12),
        **{name: significant(value) for name, value in seconds.items()},
        "roofline_step_s": significant(step),
        "roofline_mfu": round(facts["flops"] / chips / chip.flops / step, 3),
    }


def significant(value: float, digits: int = 4) -> float:
    """Rounded to so many digits that count, however small it is."""
    return float(f"{value:.{digits}g}")
