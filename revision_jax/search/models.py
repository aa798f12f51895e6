"""The grounders of a search: structure apart from parameters, parameters on the devices of the mesh."""

import dataclasses
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from revision_jax.models.grounder import Grounder
from revision_jax.parallel.rules import sharding_for


@dataclasses.dataclass(frozen=True)
class Models:
    """The grounders that answer; only read.

    Attributes:
      dense: answers about dense windows; it has a dense adapter.
      upper: answers about groups of windows, for depths from 2 on; it has a sparse adapter. None: no upper levels.
      upper_question: what upper levels ask, a key of `questions.UPPER_ANSWERS`.
    """

    dense: Grounder
    upper: Grounder | None = None
    upper_question: str = "group"

    @property
    def both(self) -> tuple[Grounder, Grounder | None]:
        """The dense and the upper grounder."""
        return self.dense, self.upper


def split_model(grounder: Grounder | None, mesh: Mesh | None) -> tuple[nnx.GraphDef | None, nnx.State | None]:
    """Structure and parameters, these placed by the rules: parameters in other places would mean another program.

    Parameters that are shapes alone get their places too, for compiling ahead. Without a grounder both are None.
    """
    if grounder is None:
        return None, None
    graphdef, state = nnx.split(grounder)
    if mesh is None:
        return graphdef, state

    def put(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        value, sharding = variable.get_value(), sharding_for("/".join(map(str, path)), variable, mesh)
        if isinstance(value, jax.ShapeDtypeStruct):
            return variable.replace(jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding))
        return variable.replace(jax.device_put(value, sharding))

    return graphdef, nnx.from_flat_state([(path, put(path, variable)) for path, variable in nnx.to_flat_state(state)])


def signature(state: nnx.State) -> tuple[Any, list]:
    """Structure, shapes and dtypes: what two states must share to be arguments of one program."""
    leaves, structure = jax.tree.flatten(state)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
