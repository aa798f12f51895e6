"""A run whose base is no Llama: trained, searched, exported, imported, with 8-bit weights; and what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from tiny_base import make_base, overrides_of
from tiny_families import qwen_tokenizer, tiny_family

from revision_jax import config as configs
from revision_jax import export
from revision_jax.config import ConfigError
from revision_jax.parallel.mesh import make_mesh
from revision_jax.runs import converting
from revision_jax.runs import grounder as parts
from revision_jax.runs.run import Run
from revision_jax.train import train

pytestmark = pytest.mark.parity
SPEC, TARGETS = "configs/stage1.py", ("q_proj", "v_proj", "down_proj")
FORMATS = ("huggingface", "peft", "revisionllm")


def save_llm(base, family, **changes):
    """An LLM with a tokenizer of Qwen's kind in the place of a base's."""
    tokenizer = qwen_tokenizer()
    sizes = {"vocab_size": len(tokenizer) + 5, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "max_position_embeddings": 512}
    tiny_family(family, **sizes | ids | changes).save_pretrained(base / "llm")
    tokenizer.save_pretrained(base / "llm")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory, trained_run):
    """The fields of a config, the metrics of its run of two steps and a search, the work folder."""
    folder = tmp_path_factory.mktemp("qwen")
    make_base(folder / "base")
    save_llm(folder / "base", "qwen3, biases")
    changes = {"lora__targets": TARGETS, "train__steps": 2, "train__learning_rate": 1e-2, "prompt__max_text_tokens": 96}
    changes |= {"data__val_videos": 2, "data__test_videos": 2}
    fields = overrides_of(folder / "base", trained_run.config.data.dir, **changes)
    return fields, train(configs.load(SPEC, fields), folder / "run"), folder / "run"


def test_a_qwen_base_trains_and_is_searched(qwen):
    _, metrics, workdir = qwen
    run = Run.load(workdir)
    sizes = parts.llama_config(run.config)
    assert (sizes.family, sizes.qk_norm, sizes.head_dim, sizes.num_kv_heads) == ("qwen3", True, 16, 2)
    assert sizes.biases == ("q_proj", "k_proj", "v_proj", "o_proj")
    assert len((workdir / "eval/predictions.jsonl").read_text().splitlines()) > 2 and metrics["methods"]
    prompts = run.prompts
    assert prompts.bos_id is None and prompts.tokenizer.decode(prompts.prefix) == prompts.template.before_video
    assert prompts.pad_id != prompts.eos_id
    layers = run.grounder("trained").llm.layers
    for layer in (layers.self_attn.q_proj, layers.self_attn.v_proj, layers.mlp.down_proj):
        assert float(jnp.abs(layer.lora_b[...]).max()) > 1e-5


def test_it_goes_out_in_its_own_family_and_comes_back(qwen, tmp_path):
    fields, _, workdir = qwen
    for form in FORMATS:
        assert export.main(["--workdir", str(workdir), "--out", str(tmp_path / form), "--format", form]) == 0
        checks = json.loads((tmp_path / form / "manifest.json").read_text())["check"]
        assert all(check["passed"] for check in checks.values())
    tokens = np.random.default_rng(0).integers(5, 300, (2, 30))
    llm = Run.load(workdir).grounder("trained").llm
    ours = jax.jit(lambda tokens: llm.logits(llm(llm.embed(tokens))))(tokens)
    merged, base = (
        transformers.AutoModelForCausalLM.from_pretrained(path)
        for path in (tmp_path / "huggingface", fields["base.llm"])
    )
    assert type(merged) is transformers.Qwen3ForCausalLM
    for model in (merged, peft.PeftModel.from_pretrained(base, tmp_path / "peft")):
        with torch.no_grad():
            np.testing.assert_allclose(ours, model(torch.tensor(tokens)).logits, atol=2e-4)
    theirs = load_file(f"{fields['base.llm']}/model.safetensors")
    written = load_file(tmp_path / "huggingface/model.safetensors")
    same = [key for key in theirs if not any(f".{target}.weight" in key for target in TARGETS)]
    assert theirs.keys() == written.keys() and "model.layers.0.self_attn.q_proj.bias" in same
    for key in same:
        np.testing.assert_array_equal(written[key], theirs[key])

    converting.convert("stage", tmp_path / "revisionllm", tmp_path / "again", spec=SPEC, fields=fields)
    again = Run.load(tmp_path / "again").grounder("trained").llm
    jax.tree.map(np.testing.assert_array_equal, *(jax.tree.leaves(parts.take_apart(one)[1]) for one in (llm, again)))
    converting.convert("llama", fields["base.llm"], tmp_path / "llm", options={"dtype": "bfloat16"})
    assert type(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "llm")) is transformers.Qwen3ForCausalLM


def test_eight_bit_weights_keep_the_biases(qwen):
    config = configs.load(SPEC, qwen[0] | {"model.param_dtype": "int8", "model.dtype": "bfloat16"})
    mesh = make_mesh(devices=jax.devices()[:1])
    narrow = parts.fresh_grounder(config, mesh).llm.layers.self_attn
    wide = parts.fresh_grounder(configs.load(SPEC, qwen[0]), mesh).llm.layers.self_attn
    assert narrow.q_proj.kernel.dtype == "int8" and narrow.q_proj.bias.dtype == "bfloat16"
    np.testing.assert_allclose(np.float32(narrow.q_proj.bias[...]), wide.q_proj.bias[...], rtol=1e-2)
    shapes = parts.abstract_grounder(config).llm.layers.self_attn
    assert shapes.q_proj.bias.dtype == "bfloat16" and shapes.q_norm.scale.dtype == "float32"


def test_sequences_in_which_a_window_would_act_are_refused(qwen):
    config = configs.load(SPEC, qwen[0])
    sizes = parts.llama_config(config)
    parts.check_length(config, sizes)
    dynamic = {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 90}}
    for changes, told in ({"sliding_window": 99}, r"has 99 \(sliding_window\)"), (dynamic, r"has 90 \(dynamic"):
        with pytest.raises(ConfigError, match=told):
            parts.check_length(config, dataclasses.replace(sizes, **changes))
