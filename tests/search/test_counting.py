"""Counted FLOPs against what the compiler counts, for one layer (it counts the body of a loop once)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from revision_jax.metrics.cost import Cost, LevelCost
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig
from revision_jax.search.counting import Flops

P, F, D, H = 3, 13, 64, 96


@pytest.fixture(scope="module")
def grounder():
    config = LlamaConfig(500, H, 256, 1, 4, 2, 24)
    llm = Llama(config, lora=LoRAConfig(8, 16.0, 0.0, ("q_proj", "down_proj")), rngs=nnx.Rngs(0))
    sparse = SparseAdapter(D, H, rngs=nnx.Rngs(1), mlp_width=256, num_heads=4, num_layers=1)
    return Grounder(llm, DenseAdapter(D, H, rngs=nnx.Rngs(2)), sparse)


def _compiled(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def test_prefill_and_head(grounder):
    flops = Flops(grounder)
    # The hidden states too: of the cache alone the compiler leaves out what no later layer reads.
    prefill = lambda video: grounder.llm.prefill(grounder.embed_windows(jnp.arange(P), video))
    counted = _compiled(prefill, (2, F, D))
    expected = 2 * flops.frame_tokens(F, 0) + flops.prefill(2, P + F)
    # The compiler also counts norms, rotations and the half of attention that is masked.
    assert expected <= counted <= 1.15 * expected
    assert _compiled(grounder.llm.logits, (7, H)) == pytest.approx(7 * flops.head, rel=0.01)


def test_a_sparse_vector(grounder):
    expected = 3 * Flops(grounder).sparse_vector(F, 5)
    counted = _compiled(grounder.sparse, (3, F, D), (3, 5, D), (3, 5))
    assert expected <= counted <= 1.2 * expected


def test_an_adapter_that_is_not_there_has_no_flops(grounder):
    dense = Flops(Grounder(grounder.llm, grounder.adapter))
    upper = Flops(Grounder(grounder.llm, sparse=grounder.sparse))
    assert dense.sparse_vector(10, 3) == 0 < upper.sparse_vector(10, 3)
    assert upper.projected == 0 < dense.projected


def test_rates():
    levels = (LevelCost(groups=2, tokens_prefilled=100, tokens_decoded=10),)
    cost = Cost(1, 4, 10, 640, 700, 90, 2.0, pairs=20, all_pairs=40, levels=levels, video_s=7200.0, stored_frames=7200,
                flops=8e9)  # fmt: skip
    assert cost.llm_tokens == 900
    rates = cost.rates()
    assert rates["llm_tokens_per_query"] == 225 and rates["gflops_per_query"] == 2
    assert rates["frames_to_llm_per_query"] == 20 * 64 / 4  # a query's own share, though windows are encoded once
    assert rates["frames_decoded_per_hour"] == 3600 and rates["frames_to_llm_per_hour"] == 320
    assert set(Cost().rates().values()) == {None}
    assert np.isclose((cost + cost).rates()["llm_tokens_per_query"], 225)
