"""LoRA in the PEFT format: exact round trips, PEFT's own reader, and LoRAs that do not fit."""

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tiny_torch import SIZES, lora_of, tiny_llama

from revision_jax.interop.llama import read_llama_config
from revision_jax.interop.lora import CONFIG, read_lora, read_lora_config, write_lora
from revision_jax.interop.table import TableError


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
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
    ],
)
def test_a_lora_of_another_kind_is_refused(edited, changes, told):
    folder = edited(changes)
    with pytest.raises(ValueError, match=rf"{CONFIG}(?s:.*){told}"):
        read_lora_config(folder)


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
