"""The joined model: the static layout, the cache of a window, and names on every parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import revision_jax.models
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.clip import CLIP, CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import KVCache, Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig
from revision_jax.models.names import LORA_TARGETS

LORA = LoRAConfig(rank=2, alpha=4, dropout=0.5, targets=LORA_TARGETS)
CONFIG = LlamaConfig(31, 16, 24, 2, 4, 2, 4)
PREFIX = jnp.array([1, 5, 7])


def build():
    rngs = nnx.Rngs(0)
    return Grounder(Llama(CONFIG, lora=LORA, rngs=rngs), DenseAdapter(6, 16, rngs=rngs))


@pytest.fixture(scope="module")
def grounder(draw):
    return draw(build)


@pytest.fixture(scope="module")
def batch():
    video = jax.random.normal(jax.random.key(0), (2, 4, 6), jnp.float16)
    tokens = jax.random.randint(jax.random.key(1), (2, 5), 0, 31)
    return video, tokens


def test_logits_predict_each_token_from_what_stands_before_it(grounder, batch):
    video, tokens = batch
    run = jax.jit(grounder)
    logits = run(PREFIX, video, tokens)
    assert logits.shape == (2, 5, 31) and logits.dtype == jnp.float32
    changed = run(PREFIX, video, tokens.at[:, 2].set(0))
    np.testing.assert_array_equal(logits[:, :3], changed[:, :3])
    assert (np.abs(logits[:, 3:] - changed[:, 3:]).max(-1) > 0).all()
    llm = grounder.llm

    @jax.jit
    def by_hand(video, tokens):
        text = llm.embed(jnp.concatenate([jnp.tile(PREFIX, (2, 1)), tokens], 1))
        embedded = jnp.concatenate([text[:, :3], grounder.adapter(video), text[:, 3:]], 1)
        return llm.logits(llm(embedded))[:, 6:11]

    np.testing.assert_allclose(logits, by_hand(video, tokens), atol=1e-5)


def test_texts_that_share_a_window_get_the_logits_they_get_alone(grounder, batch):
    video, tokens = batch
    texts = jnp.stack([tokens, tokens[::-1], (tokens + 3) % 31], axis=1)  # [B, G, T]
    together = jax.jit(grounder)(PREFIX, video, texts)
    for number in range(3):
        np.testing.assert_allclose(together[:, number], jax.jit(grounder)(PREFIX, video, texts[:, number]), atol=1e-5)


def test_the_cache_of_a_window_serves_any_question(grounder, batch):
    video, tokens = batch

    @jax.jit
    def searched(video, tokens):
        cache, last = grounder.encode_windows(PREFIX, video)
        slots = jnp.arange(5)
        mask = jnp.broadcast_to(slots <= slots[:, None], (2, 5, 5))
        hidden, _ = grounder.llm.extend(
            grounder.llm.embed(tokens),
            jnp.broadcast_to(7 + slots, (2, 5)),
            cache,
            KVCache.zeros(CONFIG, 2, 5, jnp.float32),
            0,
            mask,
        )
        return grounder.llm.logits(jnp.concatenate([last[:, None], hidden[:, :-1]], 1)), cache

    logits, cache = searched(video, tokens)
    assert cache.k.shape == (2, 2, 7, 2, 4)
    np.testing.assert_allclose(logits, jax.jit(grounder)(PREFIX, video, tokens), atol=1e-5)


def test_dropout_is_on_with_a_key_only(grounder, batch):
    run = jax.jit(lambda key: grounder(PREFIX, *batch, dropout_key=key))
    assert np.array_equal(run(jax.random.key(0)), run(jax.random.key(0)))
    assert not np.array_equal(run(jax.random.key(0)), run(jax.random.key(1)))
    assert not np.array_equal(run(jax.random.key(0)), jax.jit(grounder)(PREFIX, *batch))


def build_sparse(adapter=True):
    rngs = nnx.Rngs(0)
    sparse = SparseAdapter(6, 16, mlp_width=8, num_heads=2, rngs=rngs)
    dense = DenseAdapter(6, 16, rngs=rngs) if adapter else None
    return Grounder(Llama(CONFIG, lora=LORA, rngs=rngs), dense, sparse, window_chunk=4)


@pytest.fixture(scope="module")
def both(draw):
    return draw(build_sparse)


@pytest.fixture(scope="module")
def group():
    """Two groups of 5 windows of 4 frames, their queries of 3 tokens, texts."""
    video = jax.random.normal(jax.random.key(0), (2, 5, 4, 6), jnp.float16)
    query = jax.random.normal(jax.random.key(1), (2, 3, 6), jnp.float16)
    tokens = jax.random.randint(jax.random.key(2), (2, 5), 0, 31)
    return {"video": video, "tokens": tokens, "query": query, "query_mask": jnp.array([[1, 1, 1], [1, 1, 0]], bool)}


def test_a_group_is_one_sparse_token_a_window_between_prefix_and_text(both, group):
    logits = jax.jit(both)(PREFIX, **group)

    @jax.jit
    def by_hand(video, tokens, query, query_mask):
        windows = [both.sparse(video[:, i], query, query_mask) for i in range(5)]
        text = both.llm.embed(jnp.concatenate([jnp.tile(PREFIX, (2, 1)), tokens], 1))
        embedded = jnp.concatenate([text[:, :3], jnp.stack(windows, 1), text[:, 3:]], 1)
        return both.llm.logits(both.llm(embedded))[:, 7:12]

    assert logits.shape == (2, 5, 31)
    np.testing.assert_allclose(logits, by_hand(**group), atol=1e-5)
    dense = {"video": group["video"][:, 0], "tokens": group["tokens"]}
    np.testing.assert_array_equal(jax.jit(both)(PREFIX, **dense), jax.jit(both)(PREFIX, **dense, query=None))


@pytest.mark.parametrize("pairs", [1, 3, 4, 9])  # fewer than a chunk, a chunk, two and a rest
def test_chunks_of_sparse_tokens_are_those_computed_at_once(both, pairs):
    video, query = (jax.random.normal(jax.random.key(i), (pairs, size, 6)) for i, size in enumerate((4, 3)))
    mask = jnp.arange(3) <= jnp.arange(pairs)[:, None]
    chunked = jax.jit(both.sparse_tokens)(video, query, mask)
    assert chunked.shape == (pairs, 16) and chunked.dtype == jnp.float32
    np.testing.assert_allclose(chunked, jax.jit(both.sparse)(video, query, mask), atol=1e-5)


def test_the_memory_of_sparse_tokens_does_not_grow_with_their_number(both):
    def peak(pairs):
        shapes = [(pairs, 64, 6), (pairs, 8, 6), (pairs, 8)]
        asked = jax.jit(both.sparse_tokens).lower(*(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes))
        return asked.compile().memory_analysis().temp_size_in_bytes

    assert peak(64) < 1.5 * peak(16)


def test_dropout_of_the_sparse_adapter_differs_between_windows(both, group):
    video = jnp.broadcast_to(group["video"][:, :1], group["video"].shape)  # the same window again and again
    graphdef, state = nnx.split(both)
    run = jax.jit(lambda state, key, *group: nnx.merge(graphdef, state).group_tokens(*group, dropout_key=key))
    one, again, other = (run(state, jax.random.key(i), video, group["query"], group["query_mask"]) for i in (0, 0, 1))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert not np.array_equal(one[:, 0], one[:, 1])


def test_a_grounder_needs_an_adapter_and_either_is_enough(draw):
    alone = draw(lambda: build_sparse(adapter=False))
    assert alone.adapter is None and alone.visual_width == 6
    with pytest.raises(ValueError, match="without an adapter"):
        nnx.eval_shape(lambda: Grounder(Llama(CONFIG, rngs=nnx.Rngs(0))))
    two = lambda rngs: Grounder(
        Llama(CONFIG, rngs=rngs), DenseAdapter(8, 16, rngs=rngs), SparseAdapter(6, 16, rngs=rngs, num_heads=2)
    )
    with pytest.raises(ValueError, match=r"different widths \[8, 6\]"):
        nnx.eval_shape(lambda: two(nnx.Rngs(0)))


def test_widths_must_fit():
    mismatched = lambda: Grounder(Llama(CONFIG, rngs=nnx.Rngs(0)), DenseAdapter(6, 8, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="the adapter gives width 8, the LLM has 16"):
        nnx.eval_shape(mismatched)


def test_every_parameter_names_its_axes_and_every_name_is_documented(grounder):
    vision = CLIPVisionConfig(16, 24, 1, 2, image_size=16, patch_size=8)
    text = CLIPTextConfig(16, 24, 1, 2, vocab_size=9)
    clip = nnx.eval_shape(lambda: CLIP(CLIPConfig(vision, text, 6), rngs=nnx.Rngs(0)))
    sparse = nnx.eval_shape(lambda: SparseAdapter(8, 16, mlp_width=8, num_heads=2, rngs=nnx.Rngs(0)))
    used = set()
    for module in (grounder, clip, sparse):
        for path, param in nnx.to_flat_state(nnx.state(module, nnx.Param)):
            assert len(param.axes) == param.ndim, path
            used |= set(param.axes)
    documented = {line.split()[0] for line in revision_jax.models.__doc__.splitlines() if line.startswith("    ")}
    assert used - {None} == documented


def test_paths_are_those_that_trainable_patterns_address(grounder):
    paths = {"/".join(map(str, keys)) for keys, _ in nnx.to_flat_state(nnx.state(grounder, nnx.Param))}
    assert {
        "llm/layers/self_attn/q_proj/lora_a",
        "llm/layers/mlp/down_proj/lora_b",
        "llm/embed_tokens/embedding",
        "llm/lm_head/kernel",
        "llm/norm/scale",
        "adapter/kernel",
        "adapter/bias",
    } <= paths
