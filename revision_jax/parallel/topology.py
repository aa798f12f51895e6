"""TPU slices by name, as devices to compile for: no TPU is needed, only libtpu (`pip install revision_jax[tpu]`).

`v5e-16` is one slice, `2xv5e-16` two of them joined by the data center's network. The number counts what the
cloud's names count: chips of v5e and v6e, TensorCores (two a chip) of v4 and v5p.
"""

import dataclasses
import math
import os
import re
from typing import Any


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip's published figures (cloud.google.com/tpu/docs/system-architecture).

    Attributes:
      platform: libtpu's name of the generation; variant: its chip configuration.
      hbm_gib: memory a chip.
      flops: bf16 a second. hbm_bytes, ici_bytes: bytes a second, from memory and to neighbours.
      cores: that the slice's name counts a chip.
      bounds: number in the name -> chips along each side.
    """

    platform: str
    variant: str
    hbm_gib: float
    flops: float
    hbm_bytes: float
    ici_bytes: float
    cores: int
    bounds: dict[int, tuple[int, ...]]


_FLAT = {1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16)}
_CUBES = {
    **{8: (2, 2, 1), 16: (2, 2, 2), 32: (2, 2, 4), 64: (2, 4, 4), 128: (4, 4, 4), 256: (4, 4, 8), 512: (4, 8, 8)},
    1024: (8, 8, 8),
}
CHIPS = {
    "v4": Chip("v4", "megacore", 32, 275e12, 1228e9, 300e9, 2, _CUBES),
    "v5e": Chip("v5e", "default", 16, 197e12, 819e9, 200e9, 1, _FLAT),
    "v5p": Chip("v5", "megacore", 95, 459e12, 2765e9, 600e9, 2, _CUBES),
    "v6e": Chip("v6e", "default", 32, 918e12, 1640e9, 448e9, 1, _FLAT),
}
DCN_BYTES = 3.1e9  # a second and chip between slices: 100 Gbit/s a host of four chips (assumed)


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or more equal slices.

    Attributes:
      name: as given. generation: key of CHIPS. bounds: chips along each side of a slice.
    """

    name: str
    generation: str
    bounds: tuple[int, ...]
    slices: int = 1

    @property
    def chip(self) -> Chip:
        return CHIPS[self.generation]

    @property
    def num_chips(self) -> int:
        return math.prod(self.bounds) * self.slices

    @classmethod
    def parse(cls, name: str) -> "Topology":
        """Raises ValueError for a name that is not a known slice, with those that are."""
        match = re.fullmatch(r"(?:(\d+)x)?(v\d[a-z]?)-(\d+)", name)
        slices, generation, size = match.groups() if match else (None, "", "0")
        bounds = CHIPS[generation].bounds.get(int(size)) if generation in CHIPS else None
        if bounds is None or slices == "0":
            known = "; ".join(f"{g}-{{{','.join(map(str, chip.bounds))}}}" for g, chip in CHIPS.items())
            raise ValueError(f"unknown topology {name!r}; expected one of {known}, or several slices as 2xv5e-16.")
        return cls(name, generation, bounds, int(slices or 1))

    def devices(self) -> list[Any]:
        """Described devices, which programs can be compiled for but not run on.

        Raises:
          RuntimeError: libtpu is missing, or another process of this machine uses it.
        """
        from jax.experimental import topologies

        host = (1, 1, 1) if self.num_chips == 1 else (2, 2, 1)
        # libtpu would ask the cloud's metadata server, for minutes, which machine this is.
        for name, value in {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}.items():
            os.environ.setdefault(name, value)
        try:
            described = topologies.get_topology_desc(
                platform="tpu",
                topology_name=f"{self.chip.platform}:{'x'.join(map(str, self.bounds))}",
                chip_config_name=self.chip.variant,
                chips_per_host_bounds=host,
                num_slices=self.slices,
            )
        except Exception as error:  # jaxlib raises several types, by what is missing
            raise RuntimeError(
                f"cannot describe {self.name}: {error}\nCompiling for TPUs needs libtpu, one process a machine: "
                "pip install 'revision_jax[tpu]' (other verbs then want JAX_PLATFORMS=cpu where there is no TPU)."
            ) from error
        return list(described.devices)
