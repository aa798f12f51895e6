"""Models as a program takes them: structure apart from parameters, these where the mesh wants them."""

import jax
from flax import nnx
from jax.sharding import Mesh

from revision_jax.parallel.rules import sharding_for


def taken_apart(grounder, mesh: Mesh | None) -> tuple[nnx.GraphDef, nnx.State]:
    """Structure and parameters, these where the rules put them: elsewhere they would mean another program.

    Parameters that are shapes alone are given their places too, for compiling ahead.
    """
    graphdef, state = nnx.split(grounder)
    if mesh is None:
        return graphdef, state

    def put(path, variable: nnx.Variable) -> nnx.Variable:
        value, sharding = variable.get_value(), sharding_for("/".join(map(str, path)), variable, mesh)
        if isinstance(value, jax.ShapeDtypeStruct):
            return variable.replace(jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding))
        return variable.replace(jax.device_put(value, sharding))

    return graphdef, nnx.from_flat_state([(path, put(path, variable)) for path, variable in nnx.to_flat_state(state)])


def signature(state) -> tuple:
    """What two states must share to be arguments of one program."""
    leaves, structure = jax.tree.flatten(state)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
