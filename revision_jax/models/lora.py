"""Low-rank adaptation, explicit: a linear layer that may carry one LoRA (arXiv 2106.09685).

Letters: L stacked layers, i input width, o output width, r rank.
`y = x @ kernel + alpha / r * (dropout(x) @ lora_a) @ lora_b`, as in PEFT.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from revision_jax.models.layers import Initializer, ones, parameter, zeros
from revision_jax.parallel.rules import gathered


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """`targets` name linear layers ("q_proj"); `alpha / rank` is the scale, `dropout` acts on the input."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    def __post_init__(self):
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.rank < 1:
            raise ValueError(f"LoRA rank is {self.rank}; expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA dropout is {self.dropout}; expected 0 <= dropout < 1")
        if not self.targets:
            raise ValueError("LoRA has no targets; name the linear layers to adapt or pass lora=None")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError(f"LoRA targets name a layer twice: {self.targets}")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def check_targets(self, known: tuple[str, ...]) -> None:
        """Raises ValueError naming every target that no layer in `known` answers to."""
        unmatched = [target for target in self.targets if target not in known]
        if unmatched:
            raise ValueError(f"LoRA targets {unmatched} match no layer; expected names among {list(known)}")


def kaiming_uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """U(-1 / sqrt(i), 1 / sqrt(i)) for a [..., i, r] matrix: PEFT's initialisation of A."""
    bound = 1 / math.sqrt(shape[-2])
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """Inverted dropout; the identity without a key or at rate 0."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


def thin_product(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """`x @ matrix` in x's dtype; the gradient of `matrix` in its own, summed in it over rows and devices.

    Left to itself, a bfloat16 product has a bfloat16 gradient, which devices would add up in 8 bits.
    """
    return x @ matrix if x.dtype == matrix.dtype else _narrow_product(x, matrix)


@jax.custom_vjp
def _narrow_product(x, matrix):
    return x @ matrix.astype(x.dtype)


def _narrow_forward(x, matrix):
    return _narrow_product(x, matrix), (x, matrix)


def _narrow_backward(saved, dy):
    x, matrix = saved
    gradient = jnp.einsum("...i,...o->io", x, dy, preferred_element_type=matrix.dtype)
    return dy @ matrix.astype(dy.dtype).T, gradient


_narrow_product.defvjp(_narrow_forward, _narrow_backward)


class LoRALinear(nnx.Module):
    """A bias-free linear layer: `kernel` [(L,) i, o] in `param_dtype`, of int8 with a float32 `kernel_scale` [(L,) o]
    (zeros until `quantize.py` fills them); with `lora` also float32 `lora_a`
    [(L,) i, r] (uniform) and `lora_b` [(L,) r, o] (zero, so that a fresh LoRA changes nothing)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        axes: tuple[str | None, str | None],
        rngs: nnx.Rngs,
        init: Initializer,
        lora: LoRAConfig | None = None,
        num_layers: int | None = None,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
    ):
        self.dtype = dtype
        self.axes = axes
        self.lora = lora
        narrow = jnp.dtype(param_dtype) == jnp.int8
        shape = (in_features, out_features)
        self.kernel = parameter(rngs, zeros if narrow else init, shape, axes, param_dtype, num_layers=num_layers)
        self.kernel_scale = parameter(rngs, ones, shape[1:], axes[1:], num_layers=num_layers) if narrow else None
        if lora is not None:
            # The thin matrices have axis names of their own: replicated where the kernels are sharded.
            self.lora_a = parameter(
                rngs, kaiming_uniform, (in_features, lora.rank), ("lora_in", "lora"), num_layers=num_layers
            )
            self.lora_b = parameter(rngs, zeros, (lora.rank, out_features), ("lora", "lora_out"), num_layers=num_layers)

    def __call__(self, x: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """[..., i] -> [..., o] in `dtype`; without `dropout_key` deterministic."""
        x = x.astype(self.dtype)
        y = x @ gathered(self.kernel[...], self.axes).astype(self.dtype)
        if self.kernel_scale is not None:
            y = y * self.kernel_scale[...].astype(self.dtype)
        if self.lora is None:
            return y
        low = thin_product(dropout(x, self.lora.dropout, dropout_key), self.lora_a[...])
        return y + thin_product(low, self.lora_b[...]) * self.lora.scale

    def merge(self) -> jax.Array:
        """`kernel + scale * A B` [(L,) i, o], summed in float32, in the kernel's dtype (int8: in `dtype`)."""
        kernel = self.kernel[...]
        if self.kernel_scale is not None:
            kernel = (kernel * self.kernel_scale[...][..., None, :]).astype(self.dtype)
        if self.lora is None:
            return kernel
        update = jnp.matmul(self.lora_a[...], self.lora_b[...], precision="highest") * self.lora.scale
        return (kernel.astype(jnp.float32) + update).astype(kernel.dtype)
