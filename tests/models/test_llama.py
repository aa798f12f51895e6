"""Llama's caches, remat, dropout and sizes; parity with PyTorch is in tests/interop/test_llama.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from revision_jax.models.llama import Compute, KVCache, Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig
from revision_jax.models.names import LORA_TARGETS
from revision_jax.models.packing import Packing

# With what the families have beside Llama's blocks.
CONFIG = LlamaConfig(
    vocab_size=31,
    hidden_size=16,
    intermediate_size=24,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
    biases=("q_proj", "k_proj", "v_proj", "down_proj"),
    qk_norm=True,
)
LLAMA_7B = LlamaConfig(32000, 4096, 11008, 32, 32, 32, 128)
NARROW = Compute(jnp.bfloat16, jnp.bfloat16)
LORA_64 = LoRAConfig(rank=64, alpha=128, dropout=0.05, targets=LORA_TARGETS)


@pytest.fixture(scope="module")
def model(draw):
    return draw(lambda: Llama(CONFIG, rngs=nnx.Rngs(0)))


def test_prefill_and_extend_equal_the_full_forward(model):
    """Two windows, three questions each, of different lengths, in two pieces, over prefixes never copied."""
    prefix = jax.random.randint(jax.random.key(0), (2, 6), 0, 31)
    lengths = np.array([4, 3, 2, 4, 2, 1])
    questions = jax.random.randint(jax.random.key(1), (6, 4), 0, 31)

    @jax.jit
    def cached(prefix, questions):
        hidden, cache = model.prefill(model.embed(prefix))
        suffix = KVCache.zeros(CONFIG, 6, 7, jnp.float32)
        slots, outputs = jnp.arange(7), []
        for start, stop in ((0, 3), (3, 4)):
            positions = jnp.broadcast_to(6 + jnp.arange(start, stop), (6, stop - start))
            mask = jnp.broadcast_to(slots <= jnp.arange(start, stop)[:, None], (6, stop - start, 7))
            embedded = model.embed(questions[:, start:stop])
            out, suffix = model.extend(embedded, positions, cache, suffix, start, mask)
            outputs.append(out)
        return hidden, jnp.concatenate(outputs, 1), suffix

    hidden, extended, suffix = cached(prefix, questions)
    full = jax.jit(lambda tokens: model(model.embed(tokens)))
    whole = full(jnp.concatenate([jnp.repeat(prefix, 3, 0), questions], 1))
    np.testing.assert_allclose(hidden, whole[::3, :6], atol=1e-5)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(extended[row, :length], whole[row, 6 : 6 + length], atol=1e-5)
    assert suffix.length == 7 and not np.asarray(suffix.k[:, :, 4:]).any()
    assert float(jnp.abs(extended[0] - extended[3]).max()) > 0.1


def test_extend_without_a_prefix_is_a_causal_forward(model):
    tokens = jnp.arange(10).reshape(2, 5)
    slots = jnp.arange(5)
    mask = jnp.broadcast_to(slots <= slots[:, None], (2, 5, 5))
    positions = jnp.broadcast_to(slots, (2, 5))
    empty = KVCache.zeros(CONFIG, 2, 5, jnp.float32)
    extend = jax.jit(lambda x: model.extend(x, positions, None, empty, 0, mask, states=True))
    hidden, _, states = extend(model.embed(tokens))
    wanted, _, wanted_states = jax.jit(lambda x: model.prefill(x, states=True))(model.embed(tokens))
    np.testing.assert_allclose(hidden, wanted, atol=1e-5)
    np.testing.assert_allclose(states, wanted_states, atol=1e-5)


def test_right_padding_does_not_reach_back(model):
    tokens = jnp.arange(12).reshape(2, 6)
    forward = jax.jit(lambda tokens: model(model.embed(tokens)))
    np.testing.assert_array_equal(forward(tokens)[:, :4], forward(tokens.at[:, 4:].set(0))[:, :4])


def test_remat_and_dropout_keys(draw):
    """Recomputation sees the same dropout: value and gradient do not depend on the policy."""
    lora = LoRAConfig(rank=2, alpha=4, dropout=0.5, targets=("q_proj", "down_proj"))

    def value_and_grad(remat, key):
        compute = Compute(remat=remat)
        graphdef, params = nnx.split(draw(lambda: Llama(CONFIG, lora=lora, compute=compute, rngs=nnx.Rngs(0))))

        def loss(params):
            model = nnx.merge(graphdef, params)
            logits = model.logits(model(model.embed(jnp.arange(8).reshape(2, 4)), dropout_key=key))
            return jax.nn.log_softmax(logits)[..., 0].mean()

        return jax.jit(jax.value_and_grad(loss))(params)

    key = jax.random.key(0)
    wanted = value_and_grad("none", key)
    for remat in ("full", "names"):
        found = value_and_grad(remat, key)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), wanted, found)
    assert wanted[0] != value_and_grad("none", None)[0]


def test_trains_from_scratch_and_every_parameter_has_a_gradient():
    graphdef, params = nnx.split(Llama(CONFIG, rngs=nnx.Rngs(0)))
    tokens = jnp.tile(jnp.arange(8), (2, 2))

    def loss(params):
        model = nnx.merge(graphdef, params)
        logits = model.logits(model(model.embed(tokens[:, :-1])))
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1).mean()

    @jax.jit
    def step(params):
        value, gradient = jax.value_and_grad(loss)(params)
        return value, gradient, jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient)

    first, gradient, params = step(params)
    np.testing.assert_allclose(first, np.log(31), atol=0.1)
    for path, leaf in nnx.to_flat_state(gradient):
        assert np.abs(leaf[...]).max() > 0, path
    for _ in range(30):
        value, _, params = step(params)
    assert value < first - 1


def test_sizes_of_the_7b_model():
    """Llama-2-7B has 6,738,415,616 parameters; LoRA r 64 on its seven linear layers 159.9 M."""
    model = nnx.eval_shape(lambda: Llama(LLAMA_7B, lora=LORA_64, compute=NARROW, rngs=nnx.Rngs(0)))
    flat = {"/".join(map(str, keys)): param for keys, param in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    is_lora = lambda path: path.endswith(("lora_a", "lora_b"))
    count = lambda chosen: sum(param.size for path, param in flat.items() if chosen(path))
    assert count(is_lora) == 159_907_840
    assert count(lambda path: not is_lora(path)) == 6_738_415_616
    for path, param in flat.items():
        wanted = jnp.float32 if is_lora(path) or path.endswith("scale") else jnp.bfloat16
        assert param.dtype == wanted, path
    graphdef, state = nnx.split(model)
    run = lambda state, x: nnx.merge(graphdef, state).prefill(x)
    hidden, cache = jax.eval_shape(run, state, jax.ShapeDtypeStruct((2, 300, 4096), jnp.bfloat16))
    assert (hidden.shape, hidden.dtype) == ((2, 300, 4096), jnp.bfloat16)
    assert (cache.k.shape, cache.k.dtype) == ((32, 2, 300, 32, 128), jnp.bfloat16)


def test_bfloat16_compute_is_near_float32_and_logits_are_float32(model, draw):
    half = draw(lambda: Llama(CONFIG, compute=NARROW, rngs=nnx.Rngs(0)))
    tokens = jnp.arange(8).reshape(2, 4)

    def run(model):
        hidden = model(model.embed(tokens))
        return hidden, model.logits(hidden)

    (hidden, found), (_, wanted) = jax.jit(lambda: run(half))(), jax.jit(lambda: run(model))()
    assert hidden.dtype == jnp.bfloat16 and found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, atol=0.05 * float(jnp.abs(wanted).max()))


def test_wrong_arguments_raise_or_show(model):
    assert np.isnan(model.embed(jnp.array([[31]]))).all()
    with pytest.raises(ValueError, match="overflows a suffix cache of 3 slots"):
        cache = KVCache.zeros(CONFIG, 1, 3, jnp.float32)
        model.extend(jnp.ones((1, 2, 16)), jnp.zeros((1, 2), int), None, cache, 2, jnp.ones((1, 2, 3), bool))
    with pytest.raises(ValueError, match="remat is 'half'"):
        Compute(remat="half")
    with pytest.raises(ValueError, match="attention backend is 'fast'"):
        Compute(attention="fast")
    with pytest.raises(ValueError, match="multiple of num_kv_heads"):
        LlamaConfig(31, 16, 24, 3, 4, 3, 4)
    with pytest.raises(ValueError, match="even"):
        LlamaConfig(31, 16, 24, 3, 4, 2, 5)


def test_sequences_beyond_a_sliding_window_are_refused():
    sizes = dataclasses.replace(CONFIG, sliding_window=6, num_layers=1)
    model = nnx.eval_shape(lambda: Llama(sizes, rngs=nnx.Rngs(0)))
    hidden = lambda length: jax.ShapeDtypeStruct((2, length, 16), jnp.float32)
    trace = lambda call, length: jax.eval_shape(call, model, hidden(length))
    whole = lambda model, x: model(x)
    packed = lambda model, x: model(x, packing=Packing(3, 2, 3))  # 9 tokens at positions 0 to 5
    suffix = KVCache.zeros(sizes, 2, 3, jnp.float32)
    extend = lambda prefix: (
        lambda model, x: model.extend(
            x,
            jnp.zeros((2, 3), jnp.int32),
            KVCache.zeros(sizes, 2, prefix, jnp.float32),
            suffix,
            0,
            jnp.ones((2, 3, 3), bool),
        )
    )
    assert trace(whole, 6).shape == (2, 6, 16) and trace(packed, 9).shape == (2, 9, 16) and trace(extend(3), 3)
    for call, length in ((whole, 7), (lambda model, x: model.prefill(x), 7), (extend(4), 3)):
        with pytest.raises(ValueError, match="up to 7 positions; beyond 6 the LLM's sliding_window acts"):
            trace(call, length)
