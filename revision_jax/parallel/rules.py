"""Where parameters live: one table from the logical axes written at each parameter to axes of the mesh."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Logical axis -> mesh axis, None = not split. LoRA matrices are thin: splitting them costs a loop of
# collectives each and saves nothing, so they have axes of their own and stay whole.
RULES: Mapping[str, str | None] = {
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "vocab": "tensor",
    "visual": None,
    "norm": None,
    "lora": None,
    "lora_in": None,
    "lora_out": None,
}


def partition_spec(path: str, shape: tuple[int, ...], axes: tuple, mesh: Mesh) -> PartitionSpec:
    """The mesh axes of one parameter.

    Raises:
      ValueError: a rank other than the number of axes, an unknown logical axis, a mesh axis used twice, or a
        dimension that its mesh axis does not divide. The message names the parameter.
    """
    where = f"parameter {path} of shape {tuple(shape)} with axes {axes}"
    if axes is None or len(axes) != len(shape):
        raise ValueError(f"{where}: expected one logical axis (or None) a dimension.")
    unknown = [axis for axis in axes if axis is not None and axis not in RULES]
    if unknown:
        raise ValueError(f"{where}: no rule for {unknown}; parallel/rules.py knows {sorted(RULES)}.")
    spec = [None if axis is None else RULES[axis] for axis in axes]
    used = [axis for axis in spec if axis is not None]
    if len(set(used)) != len(used):
        raise ValueError(f"{where}: two dimensions would be split over the same mesh axis {used}.")
    for size, axis, split in zip(shape, axes, spec):
        if split is not None and size % mesh.shape[split]:
            raise ValueError(
                f"{where}: dimension {axis!r} of {size} cannot be split over mesh.{split}="
                f"{mesh.shape[split]}; expected a multiple. Choose another mesh.{split}."
            )
    return PartitionSpec(*spec)


def gathered(kernel: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """A kernel whole over `fsdp`, which splits it for storage alone; what `tensor` splits stays split.

    Called in the layer that uses the kernel, so that one layer is gathered at a time; otherwise XLA may exchange
    activations instead. It does nothing on a mesh without `fsdp`.

    Args:
      axes: logical axis of each dimension.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.shape.get("fsdp", 1) == 1:
        return kernel
    spec = [None if axis is None or RULES[axis] == "fsdp" else RULES[axis] for axis in axes]
    return jax.lax.with_sharding_constraint(kernel, PartitionSpec(*spec))


def unsplit(x: jax.Array, *dimensions: int) -> jax.Array:
    """An array that no axis of the mesh splits in some dimensions; how the others are split is left to XLA.

    Called before rows are picked from an array that is split in several dimensions: within a shard_map, XLA of jax 0.11
    aborts on such a pick. It does nothing without a mesh.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    spec: list = [PartitionSpec.UNCONSTRAINED] * x.ndim
    for dimension in dimensions:
        spec[dimension] = None
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def agreed(bound: jax.Array) -> jax.Array:
    """The bound of a loop, a number or bool, within a shard_map over `data`: the largest of all its shards.

    Where `fsdp` or `tensor` splits the model, the loop's body holds collectives. Devices that leave the loop at
    different times would start different ones, and on TPUs wait for each other. Elsewhere the bound stays as it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if "data" not in mesh.manual_axes or mesh.shape["fsdp"] * mesh.shape["tensor"] == 1:
        return bound
    return jax.lax.pmax(bound.astype(jnp.int32), "data").astype(bound.dtype)


def sharding_for(path: str, param: nnx.Variable, mesh: Mesh) -> NamedSharding:
    """The sharding of a parameter that carries `axes` metadata."""
    axes = param.get_metadata().get("axes")
    return NamedSharding(mesh, partition_spec(path, param.get_value().shape, axes, mesh))
