"""LoRA in the PEFT format: exact round trips, PEFT's own reader, and LoRAs that do not fit."""

import json

import numpy as np
import peft
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file
from tiny_torch import SIZES, lora_of, tiny_llama

from revision_jax.interop.llama import load_llama, read_llama_config
from revision_jax.interop.lora import CONFIG, read_lora, write_lora
from revision_jax.interop.table import TableError, flat_params

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A LoRA of PEFT on all linear layers of a tiny Llama, random in both halves; with the Llama's directory."""
    folder = tmp_path_factory.mktemp("peft")
    tiny_llama(num_key_value_heads=2).save_pretrained(folder / "llm")
    lora_of(tiny_llama(num_key_value_heads=2)).save_pretrained(folder / "lora")
    return folder


def test_peft_to_ours_to_peft_is_exact(theirs, tmp_path):
    config = read_llama_config(theirs / "llm")
    lora = read_lora(theirs / "lora", config)
    assert lora.config.rank == 3 and lora.config.alpha == 6.0 and len(lora.config.targets) == 7
    assert lora.arrays["layers/self_attn/k_proj/lora_b"].shape == (SIZES["num_hidden_layers"], 3, 16)
    write_lora(lora, tmp_path, base="llm")
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (theirs / "lora", tmp_path))
    assert before.keys() == after.keys() and len(before) == 7 * 2 * SIZES["num_hidden_layers"]
    for key in before:
        np.testing.assert_array_equal(after[key], before[key])

    one, two = (
        peft.PeftModel.from_pretrained(tiny_llama(num_key_value_heads=2), folder).eval()
        for folder in (theirs / "lora", tmp_path)
    )
    tokens = torch.arange(3, 12)[None]
    with torch.no_grad():
        assert torch.equal(one(tokens).logits, two(tokens).logits)
        assert not torch.equal(one(tokens).logits, tiny_llama(num_key_value_heads=2)(tokens).logits)


def test_a_bin_with_the_adapters_name_in_its_keys(theirs, tmp_path):
    tensors = load_file(theirs / "lora/adapter_model.safetensors")
    named = {key.replace(".weight", ".default.weight"): torch.tensor(value) for key, value in tensors.items()}
    torch.save(named, tmp_path / "adapter_model.bin")
    (tmp_path / CONFIG).write_text((theirs / "lora" / CONFIG).read_text())
    config = read_llama_config(theirs / "llm")
    one, two = read_lora(theirs / "lora", config), read_lora(tmp_path, config)
    assert one.config == two.config and one.arrays.keys() == two.arrays.keys()
    for path in one.arrays:
        np.testing.assert_array_equal(one.arrays[path], two.arrays[path])


@pytest.fixture
def edited(theirs, tmp_path):
    """`edited(config changes, tensor change)` -> the LoRA's directory, changed."""

    def edit(changes=None, tensors=lambda tensors: tensors):
        raw = json.loads((theirs / "lora" / CONFIG).read_text())
        (tmp_path / CONFIG).write_text(json.dumps(raw | (changes or {})))
        save_file(tensors(load_file(theirs / "lora/adapter_model.safetensors")), tmp_path / "adapter_model.safetensors")
        return tmp_path

    return edit


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"target_modules": ["query_key_value", "q_proj"]}, r"\['query_key_value'\] are none of"),
        ({"use_dora": True, "bias": "all"}, r"bias is 'all'; expected 'none'\n  use_dora is True"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
        ({"lora_alpha": 0}, "lora_alpha is 0; expected a number above 0"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'; expected True"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"alora_invocation_tokens": [3, 4]}, "alora_invocation_tokens"),
        ({"use_dora": True}, "use_dora is True"),
        ({"modules_to_save": ["lm_head", "embed_tokens"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
        ({"target_modules": ["lm_head", "q_proj"]}, r"\['lm_head'\] are none of"),
        ({"target_modules": "nothing"}, "match no layer"),
        ({"target_modules": "(q_proj"}, "no regular expression"),
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, "layers_to_transform"),
        ({"some_new_trick": 1}, r"\['some_new_trick'\] are not known"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    ],
)
def test_a_lora_of_another_kind_is_refused(edited, theirs, changes, told):
    folder = edited(changes)
    with pytest.raises(ValueError, match=rf"{CONFIG}(?s:.*){told}"):
        read_lora(folder, read_llama_config(theirs / "llm"))


KINDS = {
    "rslora": {"use_rslora": True},
    "regex": {"target_modules": r".*\.(q|up)_proj"},
    "all-linear": {"target_modules": "all-linear"},
    "suffix with block": {"target_modules": ["self_attn.q_proj", "down_proj"]},
    "full paths": {"target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.2.mlp.up_proj"]},
    "layers": {"target_modules": ["v_proj", "gate_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "one layer": {"target_modules": ["v_proj"], "layers_to_transform": 1},
    "exclude": {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
    "exclude by regex": {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*\.2\..*"},
    "patterns": {
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"q_proj": 5, r"layers\.1\.mlp\.up_proj": 2},
        "alpha_pattern": {"up_proj": 9},
    },
    "patterns, rslora": {"target_modules": ["q_proj", "o_proj"], "rank_pattern": {"o_proj": 2}, "use_rslora": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_pefts_logits_and_goes_out_again(theirs, tmp_path, kind):
    """Where ranks, scales or layers differ within one LoRA, ours is one padded LoRA with the same products."""
    adapted = lora_of(tiny_llama(num_key_value_heads=2), **KINDS[kind])
    adapted.save_pretrained(tmp_path / "lora")
    tokens = torch.arange(3, 12)[None]
    with torch.no_grad():
        wanted = adapted(tokens).logits.numpy()
        base = tiny_llama(num_key_value_heads=2)(tokens).logits.numpy()
    assert np.abs(wanted - base).max() > 1e-2

    lora = read_lora(tmp_path / "lora", read_llama_config(theirs / "llm"))
    model = load_llama(theirs / "llm", lora=lora.config, rngs=nnx.Rngs(0))
    for path, array in lora.arrays.items():
        flat_params(model)[path].set_value(array)
    found = nnx.jit(lambda model, tokens: model.logits(model(model.embed(tokens))))(model, tokens.numpy())
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())

    write_lora(lora, tmp_path / "out", base="llm")
    again = peft.PeftModel.from_pretrained(tiny_llama(num_key_value_heads=2), tmp_path / "out").eval()
    with torch.no_grad():
        np.testing.assert_allclose(again(tokens).logits.numpy(), wanted, atol=1e-4 * np.abs(wanted).max())


def test_tensors_that_the_patterns_do_not_promise_are_refused(theirs, tmp_path):
    lora_of(tiny_llama(num_key_value_heads=2), target_modules=["q_proj"]).save_pretrained(tmp_path)
    raw = json.loads((tmp_path / CONFIG).read_text())
    config = read_llama_config(theirs / "llm")
    (tmp_path / CONFIG).write_text(json.dumps(raw | {"layers_to_transform": [0, 2]}))
    with pytest.raises(TableError, match=r"layers\.1\.self_attn\.q_proj\.lora_A\.weight is there, but"):
        read_lora(tmp_path, config)
    (tmp_path / CONFIG).write_text(json.dumps(raw | {"rank_pattern": {r"layers\.1\.self_attn\.q_proj": 2}}))
    with pytest.raises(TableError, match=r"layers\.1\..*lora_A\.weight is \(3, 32\), not of rank 2"):
        read_lora(tmp_path, config)


def test_disagreements_name_the_file_and_every_key(edited, theirs):
    config = read_llama_config(theirs / "llm")
    with pytest.raises(TableError) as error:
        read_lora(edited({"r": 4}), config)
    text = str(error.value)
    assert "adapter_model.safetensors (r 4," in text
    assert "misshapen: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight is (3, 32)" in text
    with pytest.raises(TableError, match=r"unmapped: base_model.*up_proj\.lora_A\.weight"):
        read_lora(edited({"target_modules": ["q_proj"]}), config)
    fewer = lambda tensors: {key: value for key, value in tensors.items() if "layers.1.mlp.up" not in key}
    with pytest.raises(TableError, match="unfilled: layers/mlp/up_proj/lora_b needs base_model"):
        read_lora(edited(None, fewer), config)
    with pytest.raises(FileNotFoundError, match=CONFIG):
        read_lora(theirs / "llm", config)
