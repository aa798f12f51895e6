"""Llama (arXiv 2302.13971) with explicit LoRA: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Families with the same block differ by flags of `LlamaConfig`: biases of linear layers, norms of queries and keys.
`interop/families.py` lists them.

Letters: B batch, T new tokens, P prefix rows, S cached keys, H width, N query heads, K key heads,
D head width, L layers, V vocabulary. Matrix products run in `dtype`; softmax, norms, rotary angles and
logits in float32.
Sharding names are listed in `revision_jax.models`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax.models.attention import attention, check_backend, prefix_attention
from revision_jax.models.layers import (
    Stack,
    check_remat,
    normal,
    ones,
    parameter,
    save_name,
    scan_layers,
    wide,
    wide_type,
)
from revision_jax.models.lora import Features, LoRAConfig, LoRALinear, outputs_of
from revision_jax.models.names import LORA_TARGETS
from revision_jax.models.packing import Packing, packed_attention
from revision_jax.models.precision import precision_of
from revision_jax.models.rope import Rope, apply_rope, make_rope, rope_kind, rope_tables
from revision_jax.parallel.rules import gathered

_INIT = normal(0.02)


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes with their Hugging Face meaning, and what the blocks of a family have beside Llama's.

    Attributes:
      rope_scaling: as in config.json; `rope.py` has the kinds.
      family: whose files these are, a row of `interop/families.py`.
      biases: linear layers with a bias ("q_proj").
      qk_norm: RMSNorm over the width of each head of queries and keys, before they are rotated.
      sliding_window: positions that a token sees, itself included; None: all before it. Sequences in which it would
        act are refused (`reach`).
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_theta: float = 1e4
    rope_scaling: dict[str, Any] | None = dataclasses.field(default=None, hash=False)
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 4096
    family: str = "llama"
    biases: tuple[str, ...] = ()
    qk_norm: bool = False
    sliding_window: int | None = None

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary positions need an even one")
        strangers = [name for name in self.biases if name not in LORA_TARGETS]
        if strangers:
            raise ValueError(f"biases {strangers} match no layer; expected names among {list(LORA_TARGETS)}")
        make_rope(self.head_dim, self.rope_theta, self.rope_scaling)  # raises on an unknown scaling

    @property
    def reach(self) -> tuple[int, str] | None:
        """(positions, key of config.json) within which a sequence is computed as the family does; None: any length.

        Behind them a sliding window would hide tokens, or dynamic rotary positions would depend on the length.
        """
        bounds = [] if self.sliding_window is None else [(self.sliding_window, "sliding_window")]
        if rope_kind(self.rope_scaling) == "dynamic":
            original = self.rope_scaling.get("original_max_position_embeddings") or self.max_position_embeddings
            bounds.append((min(original, self.max_position_embeddings), "dynamic rope_scaling"))
        return min(bounds, default=None)

    def check_reach(self, positions: int) -> None:
        """Raises ValueError where a sequence of so many positions goes beyond `reach`."""
        if self.reach is not None and positions > self.reach[0]:
            raise ValueError(
                f"a sequence takes up to {positions} positions; beyond {self.reach[0]} the LLM's {self.reach[1]} acts, "
                "which is not computed here. Shorten the video (hierarchy.num_frames, hierarchy.levels) or the text"
            )


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a Llama computes; its sizes are a `LlamaConfig`.

    Attributes:
      dtype: activations and products; softmax, norms, rotary angles and logits are float32.
      param_dtype: weights. int8 is for the layers' kernels, and the other weights then have `dtype`.
      remat: what the backward pass computes again, one of `names.REMAT_POLICIES`.
      attention: one of `names.ATTENTION_BACKENDS`.
      unroll: blocks in one turn of the loop over them when a model is trained (`scan_layers`), at most all. More run
        faster on a CPU, and compile longer.
    """

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: str = "none"
    attention: str = "auto"
    unroll: int = 1

    def __post_init__(self):
        check_remat(self.remat)
        check_backend(self.attention)


FLOAT32 = Compute()


class KVCache(NamedTuple):
    """Rotated keys and values of every layer: `k`, `v` [L, B, S, K, D]."""

    k: jax.Array
    v: jax.Array

    @property
    def length(self) -> int:
        return self.k.shape[2]

    @classmethod
    def zeros(cls, config: LlamaConfig, batch: int, length: int, dtype: Any) -> "KVCache":
        """An empty cache of `length` slots."""
        shape = (config.num_layers, batch, length, config.num_kv_heads, config.head_dim)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis in float32; `scale` [(L,) H] float32."""

    def __init__(self, features: int, *, eps: float, rngs: nnx.Rngs, stack: Stack):
        self.eps = eps
        self.dtype = stack.dtype
        self.scale = parameter(rngs, ones, (features,), ("norm",), num_layers=stack.num_layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = wide(x)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
        return (x * self.scale[...]).astype(self.dtype)


class _LinearFactory(NamedTuple):
    """What all seven linear layers of a block share; LoRA only where it was asked for."""

    stack: Stack
    lora: LoRAConfig | None
    biases: tuple[str, ...]
    rngs: nnx.Rngs

    def __call__(self, name: str, in_features: int, out_features: int, axes: tuple[str, str]) -> LoRALinear:
        lora = self.lora if self.lora is not None and name in self.lora.targets else None
        features = Features(in_features, out_features, name in self.biases)
        return LoRALinear(features, axes, init=_INIT, rngs=self.rngs, lora=lora, stack=self.stack)


class SelfAttention(nnx.Module):
    """The four projections around attention; kernels fold (heads, head width) into one axis.

    `q_norm`, `k_norm` are over D, one scale [D] for all heads of a layer; None for families without them.
    """

    def __init__(self, config: LlamaConfig, linear: _LinearFactory):
        self.head_dim = config.head_dim
        width = config.hidden_size
        q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = linear("q_proj", width, q, ("embed", "heads"))
        self.k_proj = linear("k_proj", width, kv, ("embed", "kv_heads"))
        self.v_proj = linear("v_proj", width, kv, ("embed", "kv_heads"))
        self.o_proj = linear("o_proj", q, width, ("heads", "embed"))
        norm = lambda: RMSNorm(config.head_dim, eps=config.rms_norm_eps, rngs=linear.rngs, stack=linear.stack)
        self.q_norm, self.k_norm = (norm(), norm()) if config.qk_norm else (None, None)

    def __call__(self, x, rope, attend, keys):
        split_heads = lambda y: y.reshape(*y.shape[:-1], -1, self.head_dim)
        turned = lambda y, norm: apply_rope(split_heads(y) if norm is None else norm(split_heads(y)), *rope)
        q, k, v = outputs_of((self.q_proj, self.k_proj, self.v_proj), x, keys[0])
        q = save_name(turned(q, self.q_norm), "query")  # [B, T, N, D]
        k = save_name(turned(k, self.k_norm), "key")  # [B, T, K, D]
        v = save_name(split_heads(v), "value")
        y, entry = attend(q, k, v)
        y = save_name(y, "attention").reshape(*x.shape[:-1], -1)  # [B, T, N * D]
        return self.o_proj(y, keys[1]), entry


class MLP(nnx.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LlamaConfig, linear: _LinearFactory):
        width, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = linear("gate_proj", width, inner, ("embed", "mlp"))
        self.up_proj = linear("up_proj", width, inner, ("embed", "mlp"))
        self.down_proj = linear("down_proj", inner, width, ("mlp", "embed"))

    def __call__(self, x, keys):
        gate, up = outputs_of((self.gate_proj, self.up_proj), x, keys[0])
        gate, up = save_name(gate, "gate"), save_name(up, "up")
        return self.down_proj(jax.nn.silu(gate) * up, keys[1])


class LlamaLayers(nnx.Module):
    """All blocks, stacked: every parameter [L, ...]. Inside `scan_layers` an instance is one block."""

    def __init__(self, config: LlamaConfig, linear: _LinearFactory):
        norm = lambda: RMSNorm(config.hidden_size, eps=config.rms_norm_eps, rngs=linear.rngs, stack=linear.stack)
        self.input_layernorm = norm()
        self.self_attn = SelfAttention(config, linear)
        self.post_attention_layernorm = norm()
        self.mlp = MLP(config, linear)

    def __call__(self, h: jax.Array, rope, attend: Callable, dropout_key: jax.Array | None):
        """`attend(q, k, v) -> (output, entry)`; returns (h [B, T, H], entry). A dropout key a layer."""
        keys = [None] * 4 if dropout_key is None else jax.random.split(dropout_key, 4)  # one an input of linear layers
        y, entry = self.self_attn(self.input_layernorm(h), rope, attend, keys[:2])
        h = h + y
        return h + self.mlp(self.post_attention_layernorm(h), keys[2:]), entry


class Llama(nnx.Module):
    """The decoder. Weights start at N(0, 0.02), norms at 1, biases and LoRA B at 0."""

    def __init__(
        self,
        config: LlamaConfig,
        *,
        rngs: nnx.Rngs,
        lora: LoRAConfig | None = None,
        compute: Compute = FLOAT32,
    ):
        if lora is not None:
            lora.check_targets(LORA_TARGETS)
        self.config = config
        self.lora = lora
        self.compute = compute
        shape, dtype = (config.vocab_size, config.hidden_size), compute.dtype
        # Only the layers' kernels have scales; embeddings and head are a small part.
        table_dtype = dtype if jnp.dtype(compute.param_dtype) == jnp.int8 else compute.param_dtype
        stack = Stack(config.num_layers, dtype, compute.param_dtype)
        self.embed_tokens = Embedding(shape, table_dtype, rngs)
        self.layers = LlamaLayers(config, _LinearFactory(stack, lora, config.biases, rngs))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps, rngs=rngs, stack=Stack(dtype=dtype))
        self.lm_head = None if config.tie_word_embeddings else LMHead(shape[::-1], table_dtype, rngs)

    @property
    def dtype(self) -> Any:
        """Of activations and products."""
        return self.compute.dtype

    def embed(self, tokens: jax.Array) -> jax.Array:
        """[B, T] int32 -> [B, T, H]. A token outside the vocabulary becomes NaN, not a wrong row."""
        # One axis of the mesh splits the table at most: see `unsplit`.
        table = gathered(self.embed_tokens.embedding[...], ("vocab", "embed"))
        return jnp.take(table, tokens, axis=0, mode="fill").astype(self.dtype)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., H] after the final norm -> [..., V] float32."""
        tied = self.lm_head is None
        kernel = self.embed_tokens.embedding[...].T if tied else self.lm_head.kernel[...]
        kernel = gathered(kernel, ("embed", "vocab"))
        hidden, kernel = hidden.astype(self.dtype), kernel.astype(self.dtype)
        precision = precision_of(hidden, kernel)
        return jnp.matmul(hidden, kernel, precision=precision, preferred_element_type=wide_type(hidden))

    def __call__(
        self,
        embeddings: jax.Array,
        *,
        packing: Packing | None = None,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """[B, T, H] -> [B, T, H] after the final norm. Causal, positions 0..T-1: pad on the right.

        `packing` replaces these two where T holds several texts behind one video.
        `dropout_key` turns LoRA dropout on; None is deterministic.
        """
        unroll = min(self.compute.unroll, self.config.num_layers)
        h, _ = self._run(embeddings, lambda h, entry: None, dropout_key, packing, unroll)
        return self.norm(h)

    def _states(self, embeddings: jax.Array, outputs: jax.Array) -> jax.Array:
        return jnp.concatenate([embeddings.astype(self.dtype)[None], outputs])

    def prefill(self, embeddings: jax.Array, *, states: bool = False):
        """[B, T, H] at positions 0..T-1 -> (hidden [B, T, H] after the final norm, cache of T slots).

        With `states` also every block's input, and the last one's output: [L + 1, B, T, H].
        """
        h, (entry, outputs) = self._run(embeddings, lambda h, entry: (entry, h if states else None))
        told = self.norm(h), KVCache(*entry)
        return (*told, self._states(embeddings, outputs)) if states else told

    def extend(
        self,
        embeddings: jax.Array,
        positions: jax.Array,
        prefix: KVCache | None,
        suffix: KVCache,
        write_at: jax.Array | int,
        suffix_mask: jax.Array,
        *,
        states: bool = False,
    ):
        """Runs T more tokens a row behind a shared, read-only prefix and the row's own suffix.

        Args:
          embeddings: [B, T, H].
          positions: [B, T] int32, of the new tokens.
          prefix: cache [L, P, S1, K, D] seen whole by every query; P divides B, row b reads row b // (B / P).
          suffix: cache [L, B, S2, K, D]; the new keys go to slots write_at .. write_at + T - 1.
          write_at: scalar slot. It must be at most S2 - T (a larger one would be moved back by XLA, so a
            Python int is checked here).
          suffix_mask: [B, T, S2] bool, the suffix slots each query sees, its own included.
          states: also every block's input, and the last one's output.
        Returns:
          (hidden [B, T, H] after the final norm, the suffix cache with the new slots written); with `states` also
          these, [L + 1, B, T, H].
        """
        rope = rope_tables(positions, self._rope)
        self.config.check_reach(suffix.length + (0 if prefix is None else prefix.length))
        _check_write(write_at, embeddings.shape[1], suffix.length)

        def step(layer: LlamaLayers, h: jax.Array, cache: tuple) -> tuple[jax.Array, tuple]:
            prefix_kv, (k_cache, v_cache) = cache

            def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple]:
                new = tuple(
                    jax.lax.dynamic_update_slice_in_dim(old, x.astype(old.dtype), write_at, axis=1)
                    for old, x in ((k_cache, k), (v_cache, v))
                )
                return prefix_attention(q, prefix_kv, new, suffix_mask), new

            h, entry = layer(h, rope, attend, None)
            return h, (entry, h if states else None)

        h, (entry, outputs) = scan_layers(self.layers, step, embeddings.astype(self.dtype), (prefix, suffix))
        told = self.norm(h), KVCache(*entry)
        return (*told, self._states(embeddings, outputs)) if states else told

    @property
    def _rope(self) -> Rope:
        return make_rope(self.config.head_dim, self.config.rope_theta, self.config.rope_scaling)

    def _run(self, embeddings, collect, dropout_key=None, packing=None, unroll=1):
        """Full pass, causal unless texts are packed; `collect(h, (k, v))` chooses what is kept of every layer."""
        positions = np.arange(embeddings.shape[1]) if packing is None else packing.positions
        self.config.check_reach(int(positions.max()) + 1)
        rope = rope_tables(jnp.asarray(positions)[None], self._rope)
        backend = self.compute.attention

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple]:
            if packing is None:
                return attention(q, k, v, causal=True, backend=backend), (k, v)
            return packed_attention(q, k, v, packing, backend=backend), (k, v)

        def step(layer: LlamaLayers, h: jax.Array, key: jax.Array | None) -> tuple[jax.Array, Any]:
            h, entry = layer(h, rope, attend, key)
            return h, collect(h, entry)

        keys = None if dropout_key is None else jax.random.split(dropout_key, self.config.num_layers)
        embeddings, remat = embeddings.astype(self.dtype), self.compute.remat
        return scan_layers(self.layers, step, embeddings, keys, remat=remat, unroll=unroll)


class Embedding(nnx.Module):
    """`embedding` [V, H]."""

    def __init__(self, shape: tuple[int, int], param_dtype: Any, rngs: nnx.Rngs):
        self.embedding = parameter(rngs, _INIT, shape, ("vocab", "embed"), param_dtype)


class LMHead(nnx.Module):
    """`kernel` [H, V]."""

    def __init__(self, shape: tuple[int, int], param_dtype: Any, rngs: nnx.Rngs):
        self.kernel = parameter(rngs, _INIT, shape, ("embed", "vocab"), param_dtype)


def _check_write(write_at: jax.Array | int, new: int, slots: int) -> None:
    last = int(write_at) if isinstance(write_at, int | np.integer) else 0
    if last + new > slots:
        raise ValueError(f"writing {new} tokens at slot {last} overflows a suffix cache of {slots} slots")
