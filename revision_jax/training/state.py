"""The state of a run: what is trained and its optimizer, apart from what is frozen; where each part lives.

Parameters are flat dicts from path ("llm/layers/mlp/up_proj/lora_a") to array: plain pytrees, so that a step
costs no module handling and a checkpoint knows no model.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from revision_jax.parallel.mesh import put, replicated
from revision_jax.parallel.rules import sharding_for
from revision_jax.training.optimizer import FROZEN, Table, assign

Arrays = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step changes (and donates).

    Attributes:
      trainable: path -> float32 array.
      opt_state: optax state.
      step: int32 scalar, updates done. Dropout keys are derived from (seed, step), so no key is kept.
    """

    trainable: Arrays
    opt_state: Any
    step: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Module:
    """A model without its arrays: `merge` gives it back, inside `jit` too.

    Modules of one structure with arrays of the same shapes are equal, so that `jit` compiles once for them all.

    Attributes:
      graphdef: its NNX structure.
      variables: path -> its variable, holding only shape and dtype.
    """

    graphdef: nnx.GraphDef
    variables: dict[tuple, nnx.Variable]

    @functools.cached_property
    def _identity(self) -> tuple:
        shapes = ((key, variable.get_value()) for key, variable in self.variables.items())
        return self.graphdef, tuple((key, shape.shape, shape.dtype) for key, shape in shapes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Module) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def merge(self, *parts: Arrays) -> nnx.Module:
        """The model with its arrays taken from flat dicts that together hold every path."""
        arrays = {path: array for part in parts for path, array in part.items()}
        flat = [(key, variable.replace(arrays[_name(key)])) for key, variable in self.variables.items()]
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat))

    def shardings(self, mesh: Mesh) -> dict[str, jax.sharding.NamedSharding]:
        """Path -> where the rules put it; raises on a parameter that does not fit the mesh."""
        named = {_name(key): variable for key, variable in self.variables.items()}
        return {path: sharding_for(path, variable, mesh) for path, variable in named.items()}


def _name(key: tuple) -> str:
    return "/".join(map(str, key))


def take_apart(model: nnx.Module) -> tuple[Module, Arrays]:
    """A model's structure and its arrays by path."""
    graphdef, state = nnx.split(model)
    flat = dict(nnx.to_flat_state(state))
    others = [_name(key) for key, variable in flat.items() if not isinstance(variable, nnx.Param)]
    if others:
        raise ValueError(f"{others} are not nnx.Param; a model of this project keeps nothing but parameters.")
    arrays = {key: variable.get_value() for key, variable in flat.items()}
    shape = lambda key: jax.ShapeDtypeStruct(arrays[key].shape, arrays[key].dtype)
    module = Module(graphdef, {key: variable.replace(shape(key)) for key, variable in flat.items()})
    return module, {_name(key): array for key, array in arrays.items()}


def split_by_table(arrays: Arrays, table: Table) -> tuple[Arrays, Arrays, dict[str, float]]:
    """(trainable, frozen, learning-rate multipliers of the trainable), by the ordered table."""
    rows = assign(arrays, table)
    trainable = {path: array for path, array in arrays.items() if rows[path] != FROZEN}
    frozen = {path: array for path, array in arrays.items() if rows[path] == FROZEN}
    narrow = [path for path, array in trainable.items() if array.dtype not in (jnp.float32, jnp.float64)]
    if narrow:
        raise ValueError(f"trained parameters must be float32; these are not: {narrow}. Freeze them.")
    return trainable, frozen, {path: float(rows[path]) for path in trainable}


def place(arrays: Arrays, shardings: dict[str, Any]) -> Arrays:
    """Moves every array to its place on the mesh."""
    return {path: put(array, shardings[path]) for path, array in arrays.items()}


def state_shardings(
    trainable: Arrays, optimizer: optax.GradientTransformation, shardings: dict[str, Any], mesh: Mesh
) -> TrainState:
    """Where each array of a state lies: moments where their parameter does, the rest everywhere.

    Args:
      trainable: path -> array, or its shape and dtype.
      shardings: path -> where the rules put it, of at least these.
    """
    whole = replicated(mesh)
    own = {path: shardings[path] for path in trainable}
    moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, trainable),
        own,
        transform_non_params=lambda _: whole,
    )
    return TrainState(own, moments, whole)


def init_state(
    trainable: Arrays, optimizer: optax.GradientTransformation, shardings: dict[str, Any], mesh: Mesh
) -> tuple[TrainState, TrainState]:
    """A fresh state on the mesh, and the same tree of shardings."""
    where = state_shardings(trainable, optimizer, shardings, mesh)
    # Copied: the first step donates these, and the caller's model must stay as it was.
    trainable = jax.tree.map(jnp.copy, place(trainable, shardings))
    opt_state = jax.jit(optimizer.init, out_shardings=where.opt_state)(trainable)
    return TrainState(trainable, opt_state, put(np.int32(0), where.step)), where
