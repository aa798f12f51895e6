"""Building blocks shared by every model: a parameter with logical axes, a linear layer, a LayerNorm, a stack.

Letters: L stacked layers, i input width, o output width.

A *stack* is one module whose parameters all carry an explicit leading axis [L, ...]. `scan_layers` runs it as
one `lax.scan`: compile time does not grow with the depth, and a step has no Python overhead per layer.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from revision_jax.models.names import REMAT_POLICIES
from revision_jax.models.precision import product

Module = TypeVar("Module", bound=nnx.Module)
Initializer = Callable[[jax.Array, Sequence[int], Any], jax.Array]

zeros = jax.nn.initializers.zeros
ones = jax.nn.initializers.ones
normal = jax.nn.initializers.normal

# What remat "names" keeps of a layer: the inputs and the output of attention, the part that a backward pass
# cannot recompute with plain matrix products alone. "mlp" keeps the two inner activations of the MLP as well: of the
# big products only `o_proj` is then computed again.
SAVED_NAMES = ("query", "key", "value", "attention")
MLP_NAMES = ("gate", "up")


def _saving(*names: str) -> Callable[[Callable], Callable]:
    policy = jax.checkpoint_policies.save_only_these_names(*names)
    return lambda step: jax.checkpoint(step, policy=policy, prevent_cse=False)


# In the order of REMAT_POLICIES.
_REMAT: tuple[Callable[[Callable], Callable], ...] = (
    lambda step: step,
    _saving(*SAVED_NAMES, *MLP_NAMES),
    _saving(*SAVED_NAMES),
    lambda step: jax.checkpoint(step, prevent_cse=False),
)
REMAT = dict(zip(REMAT_POLICIES, _REMAT, strict=True))


def wide(x: jax.Array) -> jax.Array:
    """In float32, or wider where it is that already: sums, norms and angles need it, whatever a model computes in."""
    return x.astype(wide_type(x))


def wide_type(x: jax.Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def save_name(x: jax.Array, name: str) -> jax.Array:
    """Marks an activation for the remat policies; `name` must be one of SAVED_NAMES or MLP_NAMES."""
    if name not in SAVED_NAMES + MLP_NAMES:
        raise ValueError(f"activation name {name!r} is not one of {SAVED_NAMES + MLP_NAMES}: no policy would save it")
    return checkpoint_name(x, name)


def check_remat(remat: str) -> str:
    """Returns `remat` when it names a policy, else raises ValueError."""
    if remat not in REMAT:
        raise ValueError(f"remat is {remat!r}; expected one of {sorted(REMAT)}")
    return remat


def parameter(
    rngs: nnx.Rngs,
    init: Initializer,
    shape: Sequence[int],
    axes: Sequence[str | None],
    dtype: Any = jnp.float32,
    *,
    num_layers: int | None = None,
) -> nnx.Param:
    """A trainable array with one logical axis name (or None) a dimension in its `axes` metadata.

    With `num_layers` the array is stacked: [L, *shape] with "layers" in front of `axes`.
    """
    if num_layers is not None:
        shape, axes = (num_layers, *shape), ("layers", *axes)
    if len(shape) != len(axes):
        raise ValueError(f"shape {tuple(shape)} needs one axis name a dimension, got {tuple(axes)}")
    array = jnp.zeros(shape, dtype) if isinstance(rngs, _NoDraws) else init(rngs.params(), tuple(shape), dtype)
    return nnx.Param(array, axes=tuple(axes))


class _NoDraws:
    """In place of `nnx.Rngs` where only shapes count."""


def shapes_of(build: Callable[[Any], Module]) -> Module:
    """The module that `build` makes of an `nnx.Rngs`, every parameter a `jax.ShapeDtypeStruct`.

    Initializers are not traced: of a deep model that took most of a second.
    """
    return nnx.eval_shape(lambda: build(_NoDraws()))


@dataclasses.dataclass(frozen=True)
class Stack:
    """What the layers of a stack share.

    Attributes:
      num_layers: `L` of the leading axis; None for a single layer, which has no such axis.
      dtype: activations and products.
      param_dtype: kernels, biases and embeddings; norms and LoRA are float32.
    """

    num_layers: int | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32


SINGLE = Stack()  # one layer in float32


class Linear(nnx.Module):
    """y = x @ kernel + bias; `kernel` [(L,) i, o], `bias` [(L,) o].

    Args:
      shape: (i, o); axes: the logical axis (or None) of each.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        axes: tuple[str | None, str | None],
        *,
        init: Initializer,
        rngs: nnx.Rngs,
        bias: bool = True,
        stack: Stack = SINGLE,
    ):
        self.dtype = stack.dtype
        make = lambda *given: parameter(rngs, *given, stack.param_dtype, num_layers=stack.num_layers)
        self.kernel = make(init, shape, axes)
        self.bias = make(zeros, shape[1:], axes[1:]) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., i] -> [..., o] in `dtype`."""
        y = product(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis in float32, returned in `stack.dtype`; `scale`, `bias` [(L,) i] float32."""

    def __init__(self, features: int, *, axis: str, rngs: nnx.Rngs, eps: float = 1e-5, stack: Stack = SINGLE):
        self.eps = eps
        self.dtype = stack.dtype
        self.scale = parameter(rngs, ones, (features,), (axis,), num_layers=stack.num_layers)
        self.bias = parameter(rngs, zeros, (features,), (axis,), num_layers=stack.num_layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = wide(x)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
        return (x * self.scale[...] + self.bias[...]).astype(self.dtype)


def scan_layers(
    layers: nnx.Module,
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    remat: str = "none",
    unroll: int = 1,
) -> tuple[Any, Any]:
    """Runs `step(layer, carry, x) -> (carry, y)` over the leading axis of a stack's parameters and of `xs`.

    Returns the last carry and the stacked `y`, as `lax.scan` does.

    Args:
      unroll: layers that one turn of the loop runs. Between turns, what the backward pass needs is copied into stacked
        arrays, which on a CPU takes a third of a small model's step; within a turn it is kept as it is.
    """
    graphdef, state = nnx.split(layers)

    def body(carry: Any, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
        layer_state, x = inputs
        return step(nnx.merge(graphdef, layer_state), carry, x)

    return jax.lax.scan(REMAT[check_remat(remat)](body), carry, (state, xs), unroll=unroll)
