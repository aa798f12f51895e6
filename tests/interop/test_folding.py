"""Adapters that our LoRA cannot hold, folded into the base: PEFT's logits, and what does not fit is named."""

import json

import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file, save_file
from tiny_torch import lora_of, tiny_llama

from revision_jax import convert
from revision_jax.interop.folding import FoldedLlama
from revision_jax.interop.llama import load_llama, read_llama_config
from revision_jax.interop.peft_config import CONFIG
from revision_jax.interop.weights import Weights

pytestmark = pytest.mark.parity
KINDS = {
    "dora": {"use_dora": True},
    "dora with patterns": {"use_dora": True, "use_rslora": True, "target_modules": ["q_proj", "up_proj"],
                           "rank_pattern": {"up_proj": 2}, "layers_to_transform": [0, 2]},
    "whole modules": {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
}  # fmt: skip
TOKENS = torch.arange(3, 12)[None]


def adapted(**kind):
    """A tiny Llama with an adapter, every trained part of which differs from the base."""
    model = lora_of(tiny_llama(num_key_value_heads=2), **kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name or "modules_to_save" in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
    return model


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Folder with the base `llm` and an adapter of each kind, and kind -> PEFT's logits."""
    folder, logits = tmp_path_factory.mktemp("folding"), {}
    tiny_llama(num_key_value_heads=2).save_pretrained(folder / "llm")
    for kind, fields in KINDS.items():
        model = adapted(**fields)
        model.save_pretrained(folder / kind, save_embedding_layers=False)
        with torch.no_grad():
            logits[kind] = model(TOKENS).logits.numpy()
    return folder, logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_base_has_pefts_logits(theirs, tmp_path, kind):
    folder, wanted = theirs[0], theirs[1][kind]
    given = ["--source", str(folder / "llm"), "--adapter", str(folder / kind), "--out", str(tmp_path / "out")]
    assert convert.main(["--format", "llama", *given]) == 0
    model = load_llama(tmp_path / "out")
    found = nnx.jit(lambda model, tokens: model.logits(model(model.embed(tokens))))(model, TOKENS.numpy())
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
    with torch.no_grad():
        assert np.abs(tiny_llama(num_key_value_heads=2)(TOKENS).logits.numpy() - wanted).max() > 0.1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["adapter"]["path"] == str(folder / kind) and len(manifest["adapter"]["sha256"]) == 64


def edited(theirs, tmp_path, kind, changes=None, tensors=lambda tensors: tensors):
    source = theirs[0] / kind
    (tmp_path / CONFIG).write_text(json.dumps(json.loads((source / CONFIG).read_text()) | (changes or {})))
    save_file(tensors(load_file(source / "adapter_model.safetensors")), tmp_path / "adapter_model.safetensors")
    return tmp_path


MAGNITUDE = "base_model.model.model.layers.1.mlp.up_proj.lora_magnitude_vector"
HEAD = "base_model.model.lm_head.weight"


@pytest.mark.parametrize(
    "kind, changes, tensors, told",
    [
        ("dora", {"use_dora": False}, {}, "unmapped: a magnitude of model.layers.0.self_attn.q_proj.weight is there"),
        ("dora", {}, {MAGNITUDE: None}, "unfilled: .*layers.1.mlp.up_proj.weight is missing"),
        ("dora", {}, {MAGNITUDE: np.ones(3, np.float32)}, r"misshapen: .*layers.1.mlp.up_proj.weight is \(3,\)"),
        ("whole modules", {"modules_to_save": ["lm_head"]}, {}, "unmapped: whole model.embed_tokens.weight"),
        ("whole modules", {}, {HEAD: np.ones((62, 32), np.float32)}, r"whole lm_head.weight is \(62, 32\), not"),
        ("whole modules", {"modules_to_save": ["score"]}, {}, r"modules_to_save is \['score'\]; expected None$"),
    ],
)
def test_an_adapter_that_does_not_fit_is_named(theirs, tmp_path, kind, changes, tensors, told):
    change = lambda held: {key: value for key, value in (held | tensors).items() if value is not None}
    folder = edited(theirs, tmp_path, kind, changes, change)
    with pytest.raises(ValueError, match=told):
        base = theirs[0] / "llm"
        FoldedLlama(read_llama_config(base), Weights(base), folder, source=base)


def test_whole_modules_beside_a_tied_head_are_refused(theirs, tmp_path):
    tiny_llama(num_key_value_heads=2, tie_word_embeddings=True).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"modules_to_save is .*tied to its embeddings"):
        FoldedLlama(read_llama_config(tmp_path), Weights(tmp_path), theirs[0] / "whole modules", source=tmp_path)


def test_the_flag_has_no_effect_elsewhere(tmp_path, capsys):
    with pytest.raises(SystemExit):
        convert.main(["--format", "clip", "--source", "x", "--out", str(tmp_path / "y"), "--adapter", "z"])
    assert "--adapter has no effect with --format clip" in capsys.readouterr().err
