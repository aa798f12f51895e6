"""The platform that a program is compiled for. Import the module, not the function: tests put another in its place."""

import jax


def compiled_for() -> str:
    """ "cpu", "gpu" or "tpu": that of the mesh in use (perhaps a described TPU), else the default one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform
