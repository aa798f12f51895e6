"""LoRA against PEFT on the same numbers, on all seven linear layers, and merge beside the forward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from flax import nnx

from revision_jax.interop.llama import load_llama, save_llama
from revision_jax.interop.table import flat_params
from revision_jax.models.layers import normal
from revision_jax.models.llama import Llama, LlamaConfig
from revision_jax.models.lora import Features, LoRAConfig, LoRALinear, dropout, outputs_of, thin_product
from revision_jax.models.names import LORA_TARGETS

LORA = LoRAConfig(rank=3, alpha=6, dropout=0.1, targets=LORA_TARGETS)


@pytest.fixture(scope="module")
def hf(torch, tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=41,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    directory = tmp_path_factory.mktemp("hf")
    transformers.LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def give_same_lora(torch, model, adapted):
    """Draws PEFT's A and B at random and copies them into ours."""
    theirs = dict(adapted.named_parameters())
    for path, param in flat_params(model).items():
        if not path.endswith(("lora_a", "lora_b")):
            continue
        _, block, linear, matrix = path.split("/")
        layers = []
        for layer in range(2):
            name = f"base_model.model.model.layers.{layer}.{block}.{linear}.{matrix[:5]}{matrix[5].upper()}"
            weight = theirs[f"{name}.default.weight"]
            with torch.no_grad():
                weight.copy_(0.3 * torch.randn_like(weight))
            layers.append(weight.detach().numpy().T)
        param.set_value(jnp.asarray(np.stack(layers)))


def test_all_seven_layers_equal_peft_and_merge_equals_forward(torch, peft, hf, tmp_path):
    adapted = peft.get_peft_model(
        transformers.LlamaForCausalLM.from_pretrained(hf),
        peft.LoraConfig(r=3, lora_alpha=6, lora_dropout=0.1, target_modules=list(LORA_TARGETS)),
    ).eval()
    model = load_llama(hf, lora=LORA, rngs=nnx.Rngs(0))
    give_same_lora(torch, model, adapted)
    tokens = np.random.default_rng(0).integers(0, 41, (2, 9))
    with torch.no_grad():
        wanted = adapted(torch.tensor(tokens)).logits.numpy()
        base = transformers.LlamaForCausalLM.from_pretrained(hf)(torch.tensor(tokens)).logits.numpy()
    logits = jax.jit(lambda model_state: forward(model, model_state, tokens))
    found = logits(nnx.state(model))
    assert np.abs(wanted - base).max() > 0.5  # the LoRA matters
    np.testing.assert_allclose(found, wanted, atol=1e-4)

    save_llama(model, tmp_path)
    merged = load_llama(tmp_path)
    np.testing.assert_allclose(merged.logits(merged(merged.embed(tokens))), wanted, atol=1e-4)
    theirs = adapted.merge_and_unload().state_dict()
    kernel = merged.layers.mlp.down_proj.kernel[1]
    np.testing.assert_allclose(kernel.T, theirs["model.layers.1.mlp.down_proj.weight"], atol=1e-6)


def forward(model, state, tokens):
    graphdef, _ = nnx.split(model)
    model = nnx.merge(graphdef, state)
    return model.logits(model(model.embed(tokens)))


def linear(lora=LORA):
    return LoRALinear(Features(8, 5), ("embed", "mlp"), init=normal(1.0), lora=lora, rngs=nnx.Rngs(0))


def test_a_fresh_lora_changes_nothing_and_has_a_gradient_for_b_only():
    module = linear()
    x = jax.random.normal(jax.random.key(0), (4, 8))
    np.testing.assert_array_equal(module(x), x @ module.kernel[...])
    np.testing.assert_array_equal(module.merge(), module.kernel[...])
    graphdef, params = nnx.split(module)
    gradient = jax.grad(lambda params: nnx.merge(graphdef, params)(x).sum())(params)
    assert float(jnp.abs(gradient["lora_b"][...]).max()) > 0
    assert float(jnp.abs(gradient["lora_a"][...]).max()) == 0


def test_dropout_acts_on_the_lora_branch_alone_and_keeps_the_mean():
    module = linear()
    module.lora_b.set_value(jax.random.normal(jax.random.key(1), (3, 5)))
    x = jnp.ones((1, 8))
    keys = jax.random.split(jax.random.key(2), 4000)
    outputs = jax.jit(jax.vmap(lambda key: module(x, key)))(keys)
    assert float(outputs.std(0).max()) > 0.1
    np.testing.assert_allclose(outputs.mean(0), module(x), atol=0.15)
    np.testing.assert_array_equal(dropout(x, 0.5, None), x)
    assert sorted(set(np.asarray(dropout(jnp.ones(100), 0.5, jax.random.key(0))))) == [0.0, 2.0]


def test_the_gradient_of_a_narrow_product_is_summed_in_float32():
    x, dy = (jax.random.normal(jax.random.key(i), (3, 200, 8), jnp.bfloat16) for i in range(2))
    matrix = jax.random.normal(jax.random.key(2), (8, 8))
    out, back = jax.vjp(thin_product, x, matrix)
    np.testing.assert_array_equal(out, x @ matrix.astype(jnp.bfloat16))
    dx, gradient = back(dy)
    assert (dx.dtype, gradient.dtype) == (jnp.bfloat16, jnp.float32)
    expected = np.einsum("abi,abo->io", *(np.asarray(array, np.float64) for array in (x, dy)))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-4)  # 8 bits would be off by 0.1
    plain = jax.vjp(lambda x: x @ matrix.astype(jnp.bfloat16), x)[1](dy)[0]
    np.testing.assert_array_equal(dx, plain)


def test_only_targets_carry_lora():
    config = LlamaConfig(11, 8, 12, 2, 2, 2, 4)
    lora = LoRAConfig(2, 4, 0, ("v_proj", "down_proj"))
    model = nnx.eval_shape(lambda: Llama(config, lora=lora, rngs=nnx.Rngs(0)))
    found = {path.split("/")[2] for path in flat_params(model) if path.endswith("lora_a")}
    assert found == {"v_proj", "down_proj"}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"targets": ("q_proj", "query")}, r"\['query'\] match no layer"),
        ({"targets": ()}, "no targets"),
        ({"targets": ("q_proj", "q_proj")}, "twice"),
        ({"rank": 0}, "rank is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_wrong_configs_raise(change, message):
    fields = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": ("q_proj",)} | change
    with pytest.raises(ValueError, match=message):
        Llama(LlamaConfig(11, 8, 12, 2, 2, 2, 4), lora=LoRAConfig(**fields), rngs=nnx.Rngs(0))


def test_a_lora_in_the_kernel_equals_one_beside_it():
    """Many rows take the sum of kernel and LoRA, and layers of one input one product; few rows the thin products."""
    make = lambda outputs, lora, bias, key: LoRALinear(
        Features(6, outputs, bias), (None, None), init=normal(1.0), rngs=nnx.Rngs(key), lora=lora
    )
    layers = [make(5, LORA, True, 0), make(4, LORA, False, 1), make(3, None, False, 2)]
    for layer in layers[:2]:
        layer.lora_b[...] = jax.random.normal(jax.random.key(3), layer.lora_b.shape)
    x = jax.random.normal(jax.random.key(4), (2, 10, 6))
    few = lambda layer: jnp.concatenate([layer(x[:, at : at + 1]) for at in range(10)], axis=1)
    assert layers[0].adds_to_kernel(x, None) and not layers[0].adds_to_kernel(x[:, :1], None)
    assert not layers[0].adds_to_kernel(x, jax.random.key(0)), "dropout acts on the input of the LoRA alone"
    for layer, joint in zip(layers, outputs_of(layers, x, None), strict=True):
        np.testing.assert_allclose(layer(x), few(layer), atol=1e-5)
        np.testing.assert_allclose(joint, few(layer), atol=1e-5)


def test_layers_of_one_input_drop_the_same_of_it():
    """Random bits are drawn once an input, not once a layer."""
    make = lambda: LoRALinear(Features(6, 5, False), (None, None), init=normal(1.0), rngs=nnx.Rngs(0), lora=LORA)
    twins = [make(), make()]
    for layer in twins:
        layer.lora_b[...] = jax.random.normal(jax.random.key(3), layer.lora_b.shape)
    x, key = jax.random.normal(jax.random.key(4), (2, 50, 6)), jax.random.key(5)
    one, other = outputs_of(twins, x, key)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(one, twins[0](x, key))
    assert (one != twins[0](x, jax.random.key(6))).any()
    drawn = str(jax.make_jaxpr(lambda x: outputs_of(twins, x, key))(x)).count("random_bits")
    assert drawn == 1
