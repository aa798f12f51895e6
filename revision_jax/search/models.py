"""The grounders of a search: structure apart from parameters, parameters on the devices of the mesh."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

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


class Weights(NamedTuple):
    """The parameters of a search's grounders in their places on the mesh, each array once.

    Attributes:
      shared: those that both grounders read, of which the base LLM is the largest; none without upper levels.
      dense, upper: what each grounder has alone, such as its LoRA; upper is None without upper levels.
    """

    shared: nnx.State
    dense: nnx.State
    upper: nnx.State | None

    @property
    def of_dense(self) -> nnx.State:
        """All parameters of the dense grounder."""
        return nnx.merge_state(self.shared, self.dense)

    @property
    def alone(self) -> "Weights":
        """The dense grounder's, for a search without upper levels."""
        return Weights(nnx.State({}), self.of_dense, None)


def split_models(models: Models, mesh: Mesh | None) -> tuple[nnx.GraphDef, nnx.GraphDef | None, Weights]:
    """Structures of the dense and the upper grounder (None without upper levels), and their parameters in their places.

    Places are those of the rules: parameters in other places would mean another program. Parameters that are shapes
    alone get theirs too, for compiling ahead. Two grounders share a parameter that is the same array in both.
    """
    (dense, dense_state), upper = nnx.split(models.dense), None
    own = {path: _place(path, variable, mesh) for path, variable in nnx.to_flat_state(dense_state)}
    if models.upper is None:
        return dense, None, Weights(nnx.State({}), _state(own), None)
    upper, upper_state = nnx.split(models.upper)
    values = {path: variable.get_value() for path, variable in nnx.to_flat_state(dense_state)}
    same = {path for path, variable in nnx.to_flat_state(upper_state) if variable.get_value() is values.get(path)}
    others = {
        path: _place(path, variable, mesh) for path, variable in nnx.to_flat_state(upper_state) if path not in same
    }
    shared = {path: own.pop(path) for path in same}
    return dense, upper, Weights(_state(shared), _state(own), _state(others))


def _state(flat: Mapping[tuple, nnx.Variable]) -> nnx.State:
    return nnx.from_flat_state(sorted(flat.items()))


def _place(path: tuple, variable: nnx.Variable, mesh: Mesh | None) -> nnx.Variable:
    """A parameter in its place on the mesh."""
    if mesh is None:
        return variable
    value, sharding = variable.get_value(), sharding_for("/".join(map(str, path)), variable, mesh)
    if isinstance(value, jax.ShapeDtypeStruct):
        return variable.replace(jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding))
    return variable.replace(jax.device_put(value, sharding))


def signature(state: nnx.State) -> tuple[Any, list]:
    """Structure, shapes and dtypes: what two states must share to be arguments of one program."""
    leaves, structure = jax.tree.flatten(state)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]
