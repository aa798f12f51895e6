"""The hierarchical adapter: CLIP features of a window into the LLM's width (arXiv 2411.14901).

Letters: B batch, F frames, Q query tokens, D visual width, H LLM width, L layers.
Dense: every frame becomes a token, without seeing the query. Sparse: the window becomes one token that does.
Both compute in float32, the layers of the sparse one in products of its `precision`. Features go in as CLIP gives
them, not L2-normalised.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from revision_jax.models.layers import LayerNorm, Linear, Stack, normal, parameter, scan_layers, wide
from revision_jax.models.lora import dropout
from revision_jax.models.precision import einsum, float32_products, product

_XAVIER = jax.nn.initializers.xavier_uniform()
_STACKED_XAVIER = jax.nn.initializers.xavier_uniform(batch_axis=(0,))
Drop = Callable[[jax.Array, int], jax.Array]  # `drop(x, i)`: dropout at the i-th of a layer's four places


class DenseAdapter(nnx.Module):
    """One linear layer: `kernel` [D, H], `bias` [H]."""

    def __init__(self, visual_width: int, hidden_size: int, *, rngs: nnx.Rngs):
        self.kernel = parameter(rngs, _XAVIER, (visual_width, hidden_size), ("visual", "embed"))
        self.bias = parameter(rngs, jax.nn.initializers.zeros, (hidden_size,), ("embed",))

    def __call__(self, video: jax.Array) -> jax.Array:
        """[..., F, D] any float -> [..., F, H] float32."""
        return product(wide(video), self.kernel[...]) + self.bias[...]


class SparseLayers(nnx.Module):
    """The parameters of a stack of post-norm attention layers, each [L, ...]; `in_proj` holds q, k, v."""

    def __init__(self, width: int, mlp_width: int, num_heads: int, num_layers: int, *, rngs: nnx.Rngs):
        stack = Stack(num_layers)

        def linear(in_features: int, out_features: int, axes: tuple[str | None, str | None]) -> Linear:
            return Linear((in_features, out_features), axes, init=_STACKED_XAVIER, rngs=rngs, stack=stack)

        self.num_heads = num_heads
        self.num_layers = num_layers
        # q, k and v side by side: an axis without a name, for shards of it would cut across the three.
        self.in_proj = linear(width, 3 * width, ("visual", None))
        self.out_proj = linear(width, width, ("visual", None))
        self.linear1 = linear(width, mlp_width, ("visual", "mlp"))
        self.linear2 = linear(mlp_width, width, ("mlp", "visual"))
        self.norm1, self.norm2 = (LayerNorm(width, axis="norm", stack=stack, rngs=rngs) for _ in range(2))

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, drop: Drop) -> jax.Array:
        """Multi-head attention of q [B, t, D] over k, v [B, s, D]; mask [B, s] bool, True where valid."""
        kernels, biases = (jnp.split(x, 3, axis=-1) for x in (self.in_proj.kernel[...], self.in_proj.bias[...]))
        q, k, v = (
            (product(x, kernel) + bias).reshape(*x.shape[:-1], self.num_heads, -1)
            for x, kernel, bias in zip((q, k, v), kernels, biases)
        )
        scores = einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = jnp.where(mask[:, None, None], scores, jnp.finfo(scores.dtype).min)
        out = einsum("bhts,bshd->bthd", drop(jax.nn.softmax(scores), 0), v)
        return drop(self.out_proj(out.reshape(*out.shape[:2], -1)), 1)

    def mlp(self, x: jax.Array, drop: Drop) -> jax.Array:
        return drop(self.linear2(drop(jax.nn.relu(self.linear1(x)), 2)), 3)


class SparseAdapter(nnx.Module):
    """Text-to-video cross-attention, self-attention with a learned token in front, a projection.

    Args:
      visual_width: `D`, the width of the features of video and text.
      hidden_size: `H`; the encoder works at width D and is projected to H.
      projected: the encoder works at width H instead: on frames that the dense adapter has projected, and on text that
        `text_mm_projector` projects; its output is not projected again.
    """

    def __init__(
        self,
        visual_width: int,
        hidden_size: int,
        *,
        rngs: nnx.Rngs,
        mlp_width: int = 2048,
        num_heads: int = 8,
        num_layers: int = 2,
        dropout: float = 0.1,
        precision: str = "high",
        projected: bool = False,
    ):
        width = hidden_size if projected else visual_width
        if width % num_heads or width % 2:
            name = "hidden_size" if projected else "visual_width"
            raise ValueError(f"{name} {width} must be even and a multiple of num_heads {num_heads}")
        self.dropout, self.precision = dropout, precision
        self.global_rep_token = parameter(rngs, normal(1.0), (width,), ("visual",))
        self.global_rep_pos = parameter(rngs, normal(1.0), (width,), ("visual",))
        self.t2v_encoder, self.encoder = (
            SparseLayers(width, mlp_width, num_heads, num_layers, rngs=rngs) for _ in range(2)
        )
        projector = Linear((visual_width, hidden_size), ("visual", "embed"), init=_XAVIER, rngs=rngs)
        self.mm_projector, self.text_mm_projector = (None, projector) if projected else (projector, None)

    @property
    def reads_projected(self) -> bool:
        """Whether the encoder works at the LLM's width, on frames that the dense adapter has projected."""
        return self.mm_projector is None

    @property
    def visual_width(self) -> int:
        """`D`, the width of the features."""
        return (self.text_mm_projector if self.reads_projected else self.mm_projector).kernel.shape[0]

    @property
    def hidden_size(self) -> int:
        """`H`, the width of the tokens."""
        return (self.text_mm_projector if self.reads_projected else self.mm_projector).kernel.shape[1]

    def __call__(
        self,
        video: jax.Array,
        text: jax.Array,
        text_mask: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """One vector a window.

        Args:
          video: [B, F, D], or [B, F, H] where `reads_projected`. text: [B, Q, D] token features; text_mask: [B, Q],
            true or 1 where valid.
          dropout_key: turns dropout on; None is deterministic.
        Returns:
          [B, H] float32.
        """
        # The last layer computes the learned token only, which saves a quarter of the arithmetic.
        return self._out(self._encode(video, text, text_mask, dropout_key, 1)[:, 0])

    def frames(
        self, video: jax.Array, text: jax.Array, text_mask: jax.Array, *, dropout_key: jax.Array | None = None
    ) -> jax.Array:
        """One vector a frame, [B, F, H] float32; arguments as in `__call__`."""
        return self._out(self.encode(video, text, text_mask, dropout_key=dropout_key)[:, 1:])

    def _out(self, encoded: jax.Array) -> jax.Array:
        return encoded if self.mm_projector is None else self.mm_projector(encoded)

    def encode(
        self,
        video: jax.Array,
        text: jax.Array,
        text_mask: jax.Array,
        *,
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """[B, 1 + F, D] float32: the learned token's output, then the frames' (before the projection)."""
        return self._encode(video, text, text_mask, dropout_key, video.shape[1] + 1)

    def _encode(self, video, text, text_mask, dropout_key, wanted: int) -> jax.Array:
        """The first `wanted` outputs of `encode`."""
        if text.shape[-1] != self.visual_width:
            raise ValueError(f"text width {text.shape[-1]}, expected {self.visual_width}: two encoders?")
        video, text = wide(video), wide(text)
        if self.text_mm_projector is not None:
            text = self.text_mm_projector(text)
        if video.shape[-1] != text.shape[-1]:
            raise ValueError(f"video width {video.shape[-1]} and text width {text.shape[-1]} differ: two encoders?")
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)
        positions = frame_positions(*video.shape[1:])
        with float32_products(self.precision):
            video = self._cross(video, positions, text, text_mask.astype(bool), keys[0])
            token = jnp.broadcast_to(self.global_rep_token[...], (video.shape[0], 1, video.shape[2]))
            positions = jnp.concatenate([self.global_rep_pos[...][None], positions])
            return self._self(jnp.concatenate([token, video], axis=1), positions, keys[1], wanted)

    def _cross(self, video, positions, text, mask, key):
        def step(layer: SparseLayers, x: jax.Array, key: jax.Array | None) -> tuple[jax.Array, None]:
            drop = self._drop(key)
            y = x + layer.attend(x + positions, text, text, mask, drop)
            # The second residual starts before norm1: the published arithmetic.
            return layer.norm2(y + layer.mlp(layer.norm1(y), drop)), None

        return scan_layers(self.t2v_encoder, step, video, _layer_keys(key, self.t2v_encoder))[0]

    def _self(self, x, positions, key, wanted: int):
        def layer_of(layer: SparseLayers, x: jax.Array, key: jax.Array | None, wanted: int) -> jax.Array:
            drop, first = self._drop(key), x[:, :wanted]
            y = layer.norm1(first + layer.attend(first + positions[:wanted], x + positions, x, None, drop))
            return layer.norm2(y + layer.mlp(y, drop))

        graphdef, state = nnx.split(self.encoder)
        before = nnx.merge(graphdef, jax.tree.map(lambda stacked: stacked[:-1], state))
        last = nnx.merge(graphdef, jax.tree.map(lambda stacked: stacked[-1], state))
        keys = _layer_keys(key, self.encoder)
        step = lambda layer, x, key: (layer_of(layer, x, key, x.shape[1]), None)
        x = scan_layers(before, step, x, None if keys is None else keys[:-1])[0]
        return layer_of(last, x, None if keys is None else keys[-1], wanted)

    def _drop(self, key: jax.Array | None) -> Drop:
        return lambda x, i: dropout(x, self.dropout, None if key is None else jax.random.fold_in(key, i))


def _layer_keys(key: jax.Array | None, layers: SparseLayers) -> jax.Array | None:
    return None if key is None else jax.random.split(key, layers.num_layers)


def frame_positions(num_frames: int, width: int) -> jax.Array:
    """[F, D] float32: frame t = 1..F at angle t / (F + 1e-6) * 2 pi, sine and cosine interleaved."""
    angle = jnp.arange(1, num_frames + 1, dtype=jnp.float32) / (num_frames + 1e-6) * 2 * math.pi
    channel = jnp.arange(width, dtype=jnp.float32)
    angle = angle[:, None] / 10000 ** (2 * jnp.floor(channel / 2) / width)
    return jnp.where(channel % 2 == 0, jnp.sin(angle), jnp.cos(angle))
