"""Low-rank adaptation, explicit: a linear layer that may carry one LoRA (arXiv 2106.09685).

Letters: L stacked layers, i input width, o output width, r rank.
`y = x @ kernel + bias + alpha / r * (dropout(x) @ lora_a) @ lora_b`, as in PEFT; few families have the bias.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax.models import platform
from revision_jax.models.layers import SINGLE, Initializer, Stack, ones, parameter, wide, zeros
from revision_jax.models.precision import einsum, product
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
    return product(x, matrix) if x.dtype == matrix.dtype else _narrow_product(x, matrix)


@jax.custom_vjp
def _narrow_product(x, matrix):
    return product(x, matrix.astype(x.dtype))


def _narrow_forward(x, matrix):
    return _narrow_product(x, matrix), (x, matrix)


def _narrow_backward(saved, dy):
    x, matrix = saved
    gradient = einsum("...i,...o->io", x, dy, preferred_element_type=matrix.dtype)
    return product(dy, matrix.astype(dy.dtype).T), gradient


_narrow_product.defvjp(_narrow_forward, _narrow_backward)


class Features(NamedTuple):
    """The widths of a linear layer, and whether it has a bias."""

    inputs: int
    outputs: int
    bias: bool = False


class LoRALinear(nnx.Module):
    """A linear layer, perhaps with a bias, perhaps with a LoRA.

    Args:
      axes: the logical axis (or None) of inputs and outputs.

    Attributes:
      kernel: [(L,) i, o] in `stack.param_dtype`.
      bias: [(L,) o] in the kernel's type (int8: in `stack.dtype`), frozen as the kernel is; None without.
      kernel_scale: [(L,) o] float32 for an int8 kernel, else None. A fresh int8 kernel is zero, its scale one:
        `quantize.py` fills both.
      lora_a, lora_b: [(L,) i, r] (uniform) and [(L,) r, o] (zero, so that a fresh LoRA changes nothing), float32;
        only with `lora`.
    """

    def __init__(
        self,
        features: Features,
        axes: tuple[str | None, str | None],
        *,
        init: Initializer,
        rngs: nnx.Rngs,
        lora: LoRAConfig | None = None,
        stack: Stack = SINGLE,
    ):
        self.dtype = stack.dtype
        self.axes = axes
        self.lora = lora
        narrow = jnp.dtype(stack.param_dtype) == jnp.int8
        make = lambda *given: parameter(rngs, *given, num_layers=stack.num_layers)
        shape = (features.inputs, features.outputs)
        self.kernel = make(zeros if narrow else init, shape, axes, stack.param_dtype)
        self.kernel_scale = make(ones, shape[1:], axes[1:]) if narrow else None
        bias_dtype = stack.dtype if narrow else stack.param_dtype
        self.bias = make(zeros, shape[1:], axes[1:], bias_dtype) if features.bias else None
        if lora is not None:
            # The thin matrices have axis names of their own: replicated where the kernels are sharded.
            self.lora_a = make(kaiming_uniform, (shape[0], lora.rank), ("lora_in", "lora"))
            self.lora_b = make(zeros, (lora.rank, shape[1]), ("lora", "lora_out"))

    def __call__(self, x: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """[..., i] -> [..., o] in `dtype`; without `dropout_key` deterministic."""
        return outputs_of((self,), x, dropout_key)[0]

    def _beside(self, x: jax.Array, dropped: jax.Array) -> jax.Array:
        """The output, the LoRA's part of it computed beside the kernel's, from the input after dropout."""
        y = product(x, gathered(self.kernel[...], self.axes).astype(self.dtype))
        if self.kernel_scale is not None:
            y = (wide(y) * self.kernel_scale[...]).astype(self.dtype)  # a scale of 8 bits would add to the rounding
        y = self._biased(y)
        if self.lora is None:
            return y
        low = thin_product(dropped, self.lora_a[...])
        return y + thin_product(low, self.lora_b[...]) * self.lora.scale

    def adds_to_kernel(self, x: jax.Array, dropout_key: jax.Array | None) -> bool:
        """Whether the LoRA is added to the kernel, which then is one float32 matrix, and not to the output.

        CPUs run thin products at a fifth of the rate of full ones. It pays where there are more rows than inputs; the
        results differ by rounding alone, which is why nothing narrower than float32 does it.
        """
        drops = self.lora is not None and self.lora.dropout > 0 and dropout_key is not None
        float32 = self.kernel_scale is None and {self.kernel.dtype, jnp.dtype(self.dtype)} == {jnp.dtype(jnp.float32)}
        return platform.compiled_for() == "cpu" and float32 and not drops and x.size > x.shape[-1] ** 2

    def _sum(self) -> jax.Array:
        """Kernel and LoRA in one matrix [i, o]."""
        kernel = gathered(self.kernel[...], self.axes)
        return kernel if self.lora is None else kernel + product(self.lora_a[...], self.lora_b[...]) * self.lora.scale

    def _biased(self, y: jax.Array) -> jax.Array:
        return y if self.bias is None else y + gathered(self.bias[...], self.axes[1:]).astype(self.dtype)

    def merge(self) -> jax.Array:
        """`kernel + scale * A B` [(L,) i, o], summed in float32, in the kernel's dtype (int8: in `dtype`)."""
        kernel = self.kernel[...]
        if self.kernel_scale is not None:
            kernel = (kernel * self.kernel_scale[...][..., None, :]).astype(self.dtype)
        if self.lora is None:
            return kernel
        update = jnp.matmul(self.lora_a[...], self.lora_b[...], precision="highest") * self.lora.scale
        return (kernel.astype(jnp.float32) + update).astype(kernel.dtype)


def outputs_of(layers: Sequence[LoRALinear], x: jax.Array, dropout_key: jax.Array | None) -> list[jax.Array]:
    """The output [..., o] of each layer for the same input [..., i]; one product where their LoRAs join the kernels.

    Their LoRAs drop the same inputs (PEFT draws a mask for each): random bits are a tenth of a step at 7B.
    """
    x = x.astype(layers[0].dtype)
    if not all(layer.adds_to_kernel(x, dropout_key) for layer in layers):
        rate = max((layer.lora.dropout for layer in layers if layer.lora is not None), default=0.0)
        dropped = dropout(x, rate, dropout_key)
        return [layer._beside(x, dropped) for layer in layers]
    kernels = [layer._sum() for layer in layers]
    y = product(x, jnp.concatenate(kernels, axis=1))
    ends = np.cumsum([kernel.shape[1] for kernel in kernels])[:-1]
    return [layer._biased(part) for layer, part in zip(layers, jnp.split(y, ends, axis=-1), strict=True)]
