"""What is kept in float32 is multiplied in float32: read from programs lowered for GPUs and TPUs, none of them here."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_search import F, Sentences, VideoFeatures, make_searcher, make_settings, tiny_grounder
from flax import nnx

from revision_jax.hierarchy import Hierarchy
from revision_jax.models.adapter import SparseAdapter
from revision_jax.models.clip import CLIP, CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from revision_jax.models.layers import Linear
from revision_jax.models.names import PRECISIONS
from revision_jax.models.precision import float32_products
from revision_jax.search.clip_baseline import _Kept, _retrieve, _Timing

PLATFORMS = ("cuda", "tpu")
PRODUCT = re.compile(r"stablehlo\.dot_general .*?: \(tensor<([^>]*)>, tensor<([^>]*)>\)")
PRECISION = re.compile(r"precision = \[(\w+), (\w+)\]")


def products(traced: jax.stages.Traced, platform: str) -> list[tuple[bool, str]]:
    """(of float32 alone, its precision) of every product of a program."""
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.convolution" not in text
    rows = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    of_float32 = [all(x.endswith("xf32") for x in PRODUCT.search(row).groups()) for row in rows]
    given = [PRECISION.search(row) for row in rows]
    return [(wide, set(found.groups()).pop() if found else "DEFAULT") for wide, found in zip(of_float32, given)]


def search() -> jax.stages.Traced:
    """The whole search: adapters, language model, similarity of frames, logits."""
    settings, hierarchy = make_settings(keep=(0.7, 0.4)), Hierarchy(16.0, F, 0.5, 0.25, levels=(12, 5))
    searcher = make_searcher(settings, hierarchy, dense=tiny_grounder(), upper=tiny_grounder(seed=1, sparse=True))
    rows = np.ones((2, 3, 6), np.float32)
    sentences = Sentences(["event 1", "event 2"], rows, rows[..., 0] > 0, rows[:, 0])
    video = VideoFeatures(np.zeros((200, 6), np.float16), 200.0, 1.0)
    return searcher.trace(video, sentences, depth=3, policy="fused")[0]


def encoder() -> jax.stages.Traced:
    """Both towers of CLIP."""
    vision = CLIPVisionConfig(8, 16, 1, 2, image_size=8, patch_size=4)
    config = CLIPConfig(
        vision, CLIPTextConfig(8, 16, 1, 2, vocab_size=20, max_position_embeddings=6, eos_token_id=1), 8
    )
    graphdef, state = nnx.split(CLIP(config, rngs=nnx.Rngs(0)))

    def encode(state, images, tokens):
        clip = nnx.merge(graphdef, state)
        return clip.encode_image(images), clip.encode_text(tokens)

    return jax.jit(encode).trace(state, jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 6), jnp.int32))


def adapters_gradient() -> jax.stages.Traced:
    """What training the sparse adapter multiplies."""
    graphdef, state = nnx.split(tiny_grounder(sparse=True).sparse)
    loss = lambda state, x: jnp.sum(nnx.merge(graphdef, state)(x, x, jnp.ones(x.shape[:2], bool)))
    return jax.jit(jax.grad(loss)).trace(state, jnp.zeros((2, 4, 6)))


def baseline() -> jax.stages.Traced:
    """Retrieval by CLIP alone."""
    timing = _Timing(np.int32(64), np.int32(4), np.float32(1), np.float32(64))
    return _retrieve.trace(_Kept(1, 2, 0.5), jnp.zeros((64, 6), jnp.float16), jnp.zeros((2, 6)), timing)


@pytest.mark.parametrize(
    "program, least, high", [(search, 40, 16), (encoder, 10, 0), (adapters_gradient, 20, 20), (baseline, 1, 0)]
)
def test_every_float32_product_is_exact_and_the_sparse_adapters_layers_as_precise_as_asked(program, least, high):
    """`high`: the least number of products of the sparse adapter's layers."""
    traced = program()
    for platform in PLATFORMS:
        found = [precision for of_float32, precision in products(traced, platform) if of_float32]
        assert len(found) >= least and found.count("HIGHEST") + found.count("HIGH") == len(found), found
        assert found.count("HIGH") >= high and bool(high) == ("HIGH" in found), found


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_sparse_adapter_has_its_own_precision(name):
    adapter = SparseAdapter(8, 4, rngs=nnx.Rngs(0), mlp_width=8, num_heads=2, precision=name)
    x = jnp.zeros((2, 4, 8))
    found = products(jax.jit(lambda x: adapter(x, x, jnp.ones(x.shape[:2], bool))).trace(x), "tpu")
    named = [precision for _, precision in found]
    assert named.count(name.upper()) >= len(named) - 1 and "HIGHEST" in named, found  # its projection is exact


def test_narrower_products_are_left_to_xla_and_a_benchmark_can_change_the_others():
    def count(dtype):
        layer = Linear((4, 4), ("embed", "mlp"), init=jax.nn.initializers.ones, rngs=nnx.Rngs(0))
        layer.dtype = dtype
        return products(jax.jit(lambda x: layer(x)).trace(jnp.ones((2, 4))), "cuda")

    assert count(jnp.bfloat16) == [(False, "DEFAULT")] and count(jnp.float32) == [(True, "HIGHEST")]
    with float32_products("default"):
        assert count(jnp.float32) == [(True, "DEFAULT")]
    assert count(jnp.float32) == [(True, "HIGHEST")]
