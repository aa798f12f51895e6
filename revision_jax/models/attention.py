"""One attention function; the backend is chosen by platform, and XLA is the reference of all.

Letters: B batch, T queries, S keys, N query heads, K key heads (N a multiple of K), D head width,
P prefix rows, G = B / P suffix rows a prefix.

Backends: "xla" runs everywhere; "cudnn" is flash attention on NVIDIA GPUs (bf16/fp16); "splash" is the Pallas
kernel for TPU (causal self-attention). "auto" takes the platform's kernel where it applies and XLA elsewhere;
a backend asked for by name that cannot run raises.
"""

import functools
import math
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from revision_jax.models import platform
from revision_jax.models.layers import wide_type
from revision_jax.models.names import ATTENTION_BACKENDS
from revision_jax.models.precision import einsum

_LANES = 128  # splash works in blocks of whole TPU lanes
_MAX_BLOCK = 512
# Mesh axes that split the batch and the heads (`parallel/`).
_BATCH_AXES = ("data", "fsdp")
_HEAD_AXIS = "tensor"
_MASKED = -1e30  # finite, so that a fully masked part of a row gives weights of 0 and not NaN


def check_backend(backend: str) -> str:
    """Returns `backend` when it names one, else raises ValueError."""
    if backend not in ATTENTION_BACKENDS:
        raise ValueError(f"attention backend is {backend!r}; expected one of {ATTENTION_BACKENDS}")
    return backend


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    mask: jax.Array | None = None,
    backend: str = "auto",
) -> jax.Array:
    """softmax(q k^T / sqrt(D)) v with a float32 softmax.

    Args:
      q: [B, T, N, D]. k, v: [B, S, K, D], same dtype.
      causal: query t sees keys 0..t.
      mask: bool, broadcastable to [B, N, T, S], True where a query sees a key. Every query must see one.
    Returns:
      [B, T, N, D] in q's dtype.
    """
    backend = backend_here(backend, q, k, causal=causal, masked=mask is not None)
    if backend == "splash":
        return _on_own_part(lambda q, k, v, mask: _splash(q, k, v), q, k, v)
    if backend == "cudnn":
        return _on_own_part(functools.partial(_cudnn, causal=causal), q, k, v, mask)
    return _xla(q, k, v, causal, mask)


def backend_here(backend: str, q: jax.Array, k: jax.Array, *, causal: bool, masked: bool) -> str:
    """`select_backend` on the platform that is compiled for."""
    return select_backend(backend, platform.compiled_for(), q, k, causal=causal, masked=masked)


def select_backend(backend: str, platform: str, q: jax.Array, k: jax.Array, *, causal: bool, masked: bool) -> str:
    """The backend that will run: "xla", "cudnn" or "splash". ValueError if one asked for by name cannot."""
    obstacles = {
        "xla": [],
        "cudnn": _cudnn_obstacles(platform, q, k, causal),
        "splash": _splash_obstacles(platform, q, k, causal, masked),
    }
    if check_backend(backend) == "auto":
        return next(name for name in ("cudnn", "splash", "xla") if not obstacles[name])
    if obstacles[backend]:
        raise ValueError(
            f"attention backend {backend!r} cannot run here: {'; '.join(obstacles[backend])}. "
            'Use "auto" or "xla", or change what is named.'
        )
    return backend


def _xla(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, mask: jax.Array | None) -> jax.Array:
    """The reference. Heads stand in front of positions: with them behind, XLA's CPU products are 4 times slower."""
    batch, length, heads, width = q.shape
    key_heads = k.shape[2]
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)  # [B, K, S, D]
    q = q.swapaxes(1, 2).reshape(batch, key_heads, -1, width)  # [B, K, N / K * T, D]
    scores = einsum("bktd,bksd->bkts", q, k, preferred_element_type=wide_type(q)) * width**-0.5
    scores = scores.reshape(batch, heads, length, -1)
    if causal:
        seen = jnp.tril(jnp.ones(scores.shape[2:], bool))
        mask = seen if mask is None else mask & seen
    if mask is not None:
        scores = jnp.where(mask, scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype).reshape(batch, key_heads, -1, k.shape[2])
    values = einsum("bkts,bksd->bktd", weights, v)
    return values.reshape(batch, heads, length, width).swapaxes(1, 2)


def _cudnn_obstacles(platform: str, q: jax.Array, k: jax.Array, causal: bool) -> list[str]:
    obstacles = []
    if platform != "gpu":
        obstacles.append(f"the platform is {platform}, it needs gpu")
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        obstacles.append(f"the dtype is {q.dtype}, it needs bfloat16 or float16")
    if q.shape[-1] % 8 or q.shape[-1] > 256:
        obstacles.append(f"the head width is {q.shape[-1]}, it needs a multiple of 8 up to 256")
    if causal and q.shape[1] != k.shape[1]:
        obstacles.append(
            f"there are {q.shape[1]} queries and {k.shape[1]} keys, causal attention needs as many of both"
        )
    return obstacles


def _splash_obstacles(platform: str, q: jax.Array, k: jax.Array, causal: bool, masked: bool) -> list[str]:
    obstacles = []
    if platform != "tpu":
        obstacles.append(f"the platform is {platform}, it needs tpu")
    if not causal or masked or q.shape[1] != k.shape[1]:
        obstacles.append("it is used for causal self-attention without another mask only")
    if q.shape[-1] % _LANES:
        obstacles.append(f"the head width is {q.shape[-1]}, it needs a multiple of {_LANES}")
    return obstacles


def _on_own_part(
    kernel: Callable[..., jax.Array], q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
    """`kernel(q, k, v, mask)` on every device's own rows and heads: XLA cannot divide a kernel itself.

    An axis of the mesh that does not divide the rows (or the heads) is left out: its devices compute the same.
    """
    mesh = jax.sharding.get_abstract_mesh()
    # Axes that a caller's shard_map has split already (the search's, over videos) are not split again.
    axes = {axis for axis, kind in zip(mesh.axis_names, mesh.axis_types) if kind != AxisType.Manual}
    if not axes:
        return kernel(q, k, v, mask)
    rows, heads = _dividing(mesh, axes, _BATCH_AXES, len(q)), _dividing(mesh, axes, (_HEAD_AXIS,), k.shape[2])
    spec, mask_spec = PartitionSpec(rows, None, heads, None), None
    if mask is not None:
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
        mask_spec = PartitionSpec(rows if mask.shape[0] > 1 else None, heads if mask.shape[1] > 1 else None, None, None)
    specs = (spec, spec, spec, mask_spec)
    split = jax.shard_map(kernel, in_specs=specs, out_specs=spec, axis_names=axes, check_vma=False)
    return split(q, k, v, mask)


def _dividing(mesh: AbstractMesh, axes: Collection[str], wanted: Sequence[str], size: int) -> tuple[str, ...]:
    """Those of the wanted axes, among `axes`, whose devices together divide `size`."""
    found: tuple[str, ...] = ()
    for axis in wanted:
        if axis in axes and size % math.prod(mesh.shape[name] for name in (*found, axis)) == 0:
            found += (axis,)
    return found


def _cudnn(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, *, causal: bool) -> jax.Array:
    """cuDNN's flash attention. Its backward pass takes even lengths only: a position is added, and cut off again."""
    (queries, keys), hidden = (q.shape[1], k.shape[1]), causal or mask is not None
    # Without a mask nothing would hide an added key; CLIP's tower, which has none, is never trained.
    if hidden and (queries % 2 or keys % 2):
        more = lambda x: jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
        q, k, v = more(q), more(k), more(v)
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, keys % 2)))  # no query sees the added key
            mask = jnp.pad(mask, ((0, 0), (0, 0), (0, queries % 2), (0, 0)), constant_values=True)
    return _cudnn_kernel(q, k, v, mask, causal)[:, :queries]


def _cudnn_kernel(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, causal: bool) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, implementation="cudnn")


def _splash(q: jax.Array, k: jax.Array, v: jax.Array, *, interpret: bool = False) -> jax.Array:
    """Causal attention [B, T, N, D]. T is padded to whole blocks; causality hides the padding."""
    # Imported here: Pallas' TPU kernels are of no use, and slow to import, on other platforms.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask

    length, heads = q.shape[1:3]
    padded = math.ceil(length / _LANES) * _LANES
    block = max(b for b in range(_LANES, min(padded, _MAX_BLOCK) + 1, _LANES) if padded % b == 0)
    blocks = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.CausalMask((padded, padded))] * heads)
    kernel = splash.make_splash_mha(mask, block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret)
    heads_first = lambda x: jnp.pad(x, ((0, 0), (0, padded - length), (0, 0), (0, 0))).swapaxes(1, 2)
    # The kernel has no scale of its own.
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    return jax.vmap(kernel)(*map(heads_first, (q, k, v))).swapaxes(1, 2)[:, :length]


def prefix_attention(
    q: jax.Array,
    prefix: Sequence[jax.Array] | None,
    suffix: Sequence[jax.Array],
    suffix_mask: jax.Array,
) -> jax.Array:
    """Attention over a shared prefix and an own suffix under one float32 softmax (as arXiv 2402.05099).

    All queries that share a prefix meet it in one matrix product, and it is never copied for each of them.

    Args:
      q: [B, T, N, D].
      prefix: (k, v), each [P, S1, K, D], P dividing B; row b sees all of prefix row b // (B / P). Or None.
      suffix: (k, v), each [B, S2, K, D].
      suffix_mask: bool [B, T, S2], True where a query sees a slot.
    Returns:
      [B, T, N, D] in q's dtype. A query that sees nothing gets the mean of the suffix.
    """
    batch, new, heads, width = q.shape
    key_heads = suffix[0].shape[2]
    q = q.swapaxes(1, 2).reshape(batch, key_heads, -1, width)  # [B, K, N / K * T, D]
    mask = jnp.tile(suffix_mask[:, None], (1, 1, heads // key_heads, 1))
    parts = [_partial(q, *suffix, mask)]
    if prefix is not None:
        rows = prefix[0].shape[0]
        if batch % rows:
            raise ValueError(f"{batch} rows cannot share {rows} prefixes evenly")
        group = lambda x: x.reshape(rows, batch // rows, *x.shape[1:]).swapaxes(1, 2)  # [P, K, G, N / K * T, D]
        shared = group(q).reshape(rows, key_heads, -1, width)
        apart = lambda x: x.reshape(rows, key_heads, batch // rows, -1, x.shape[-1]).swapaxes(1, 2)
        parts.append([apart(x).reshape(*q.shape[:3], -1) for x in _partial(shared, *prefix)])

    peak = jnp.stack([part_peak for _, part_peak, _ in parts]).max(0)
    scales = [jnp.exp(part_peak - peak) for _, part_peak, _ in parts]
    numerator = sum(values * scale for (values, _, _), scale in zip(parts, scales))
    denominator = sum(total * scale for (_, _, total), scale in zip(parts, scales))
    merged = (numerator / denominator).astype(q.dtype)
    return merged.reshape(batch, heads, new, width).swapaxes(1, 2)


def _partial(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A softmax not yet normalised, of q [b, K, t, D] over k, v [b, s, K, D], mask broadcastable to [b, K, t, s].

    Returns float32 (sum of weighted values [b, K, t, D], largest score, sum of weights: [b, K, t, 1]).
    """
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)  # heads in front: see `_xla`
    scores = einsum("bktd,bksd->bkts", q, k, preferred_element_type=wide_type(q)) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, _MASKED)
    peak = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    values = einsum("bkts,bksd->bktd", weights.astype(v.dtype), v, preferred_element_type=wide_type(v))
    return values, peak, weights.sum(-1, keepdims=True)
