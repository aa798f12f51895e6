"""Llama directories: greedy answers as transformers gives them, types, shards, what is refused.

test_families.py compares every layer.
"""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file, save_file

from revision_jax.interop.llama import check_llama, load_llama, read_llama_config, save_llama
from revision_jax.interop.merged import MergedLlama
from revision_jax.interop.table import TableError, flat_params
from revision_jax.interop.weights import Weights, weight_files
from revision_jax.models.llama import Compute, KVCache, Llama, LlamaConfig
from revision_jax.models.lora import LoRAConfig

pytestmark = pytest.mark.parity
# Weights are drawn wide (std 0.2), so that a wrong operation shows; hidden states are then of order 10, and
# two float32 programs differ by the order of their sums: 1e-4 relative to the largest value.
TOLERANCE = 1e-4


def hf_llama(rope_theta=1e4, rope_scaling=None, **changes):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        initializer_range=0.2,
        rope_parameters={"rope_type": "default", **(rope_scaling or {}), "rope_theta": rope_theta},
        bos_token_id=1,
        eos_token_id=2,
        **changes,
    )
    return transformers.LlamaForCausalLM(config).eval()


def close(found, wanted):
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE * max(1, np.abs(wanted).max()))


def test_greedy_decoding_through_extend_equals_generate(tmp_path):
    """A shared prefix, right-padded questions of two lengths, then one token a step: as a search decodes."""
    hf = hf_llama(num_key_value_heads=2)
    hf.save_pretrained(tmp_path)
    model = load_llama(tmp_path)
    rng = np.random.default_rng(1)
    prefix, lengths, steps = rng.integers(3, 61, 7), np.array([5, 3]), 8
    questions = rng.integers(3, 61, (2, 5))

    expected = []
    for row, length in zip(questions, lengths):
        prompt = torch.tensor(np.concatenate([prefix, row[:length]]))[None]
        generated = hf.generate(prompt, max_new_tokens=steps, min_new_tokens=steps, do_sample=False, pad_token_id=0)
        expected.append(generated[0, prompt.shape[1] :].numpy())

    @jax.jit
    def decode(questions, lengths):
        _, shared = model.prefill(model.embed(prefix[None]))
        suffix = KVCache.zeros(model.config, 2, 5 + steps, jnp.float32)
        slots = jnp.arange(5 + steps)
        position = jnp.broadcast_to(len(prefix) + jnp.arange(5), (2, 5))
        causal = jnp.broadcast_to(slots <= jnp.arange(5)[:, None], (2, 5, 5 + steps))
        hidden, suffix = model.extend(model.embed(questions), position, shared, suffix, 0, causal)
        hidden = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)
        valid = slots < lengths[:, None]
        tokens = []
        for step in range(steps):
            # min_new_tokens forbids transformers the end token (2) until the last step.
            scores = model.logits(hidden[:, 0]).at[:, 2].set(-jnp.inf)
            tokens.append(scores.argmax(-1))
            valid = valid | (slots == 5 + step)
            position = (len(prefix) + lengths + step)[:, None]
            embedded = model.embed(tokens[-1][:, None])
            hidden, suffix = model.extend(embedded, position, shared, suffix, 5 + step, valid[:, None])
        return jnp.stack(tokens, 1)

    np.testing.assert_array_equal(decode(questions, lengths), expected)
    assert len(np.unique(expected)) > 4  # a model that repeats one token would prove little


def test_bfloat16_files_and_lora_on_top(tmp_path):
    hf_llama().to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
    lora = LoRAConfig(rank=2, alpha=4, dropout=0.0, targets=("q_proj", "up_proj"))
    model = load_llama(tmp_path / "theirs", lora=lora, compute=Compute(jnp.bfloat16, jnp.bfloat16), rngs=nnx.Rngs(3))
    params = flat_params(model)
    assert params["layers/self_attn/q_proj/kernel"].dtype == jnp.bfloat16
    assert params["layers/self_attn/q_proj/lora_a"].dtype == params["norm/scale"].dtype == jnp.float32
    assert float(jnp.abs(params["layers/mlp/up_proj/lora_a"][...]).max()) > 0
    # A fresh LoRA changes nothing, so the saved (merged) kernels are the read ones to the bit.
    save_llama(model, tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    for key in theirs:
        np.testing.assert_array_equal(ours[key].astype(np.float32), theirs[key].astype(np.float32))


def test_shards_are_read_and_placed_one_by_one(tmp_path):
    hf = hf_llama()
    hf.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    placed = {}

    def place(path, param, array):
        placed[path] = param.axes
        return jnp.asarray(array)

    model = load_llama(tmp_path, place=place)
    assert placed["layers/mlp/down_proj/kernel"] == ("layers", "mlp", "embed")
    assert set(placed) == set(flat_params(model))
    next(tmp_path.glob("model-00001*")).unlink()
    with pytest.raises(FileNotFoundError, match="model-00001"):
        load_llama(tmp_path)


def test_a_single_file_beside_shards_is_read_where_they_are_equal(tmp_path):
    """As transformers does; where they differ, neither is read."""
    hf_llama().save_pretrained(tmp_path / "whole")
    hf_llama().save_pretrained(tmp_path, max_shard_size="20KB")
    whole = tmp_path / "model.safetensors"
    shutil.copy(tmp_path / "whole" / whole.name, whole)
    assert Weights(tmp_path).files == [whole] and weight_files(tmp_path) == [whole]

    tensors = load_file(whole)
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, whole)
    told = r"holds both model\.safetensors and shards .* differ in model\.norm\.weight; which of them"
    with pytest.raises(ValueError, match=told):
        load_llama(tmp_path)
    save_file({key: value for key, value in tensors.items() if "layers.1.mlp" not in key}, whole)
    with pytest.raises(ValueError, match=r"differ in model\.layers\.1\.mlp\.down_proj\.weight, .*model.norm|up_proj"):
        Weights(tmp_path)


def test_a_tied_head_that_differs_is_refused_and_a_copy_is_not(tmp_path):
    """transformers takes the file's head then; so does ours once the config says that it is not tied."""
    hf = hf_llama()
    hf.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    untied = json.loads(path.read_text())
    path.write_text(json.dumps(untied | {"tie_word_embeddings": True}))
    for read in (load_llama, check_llama):
        with pytest.raises(ValueError, match=r"tie_word_embeddings is true, but lm_head\.weight is not"):
            read(tmp_path)
    config, weights = read_llama_config(tmp_path), Weights(tmp_path)
    with pytest.raises(ValueError, match="tie_word_embeddings"):
        MergedLlama(config, weights, None, source=tmp_path)

    path.write_text(json.dumps(untied))
    model, tokens = load_llama(tmp_path), np.arange(3, 12)[None]
    with torch.no_grad():
        close(model.logits(model(model.embed(tokens))), hf(torch.tensor(tokens)).logits)

    path.write_text(json.dumps(untied | {"tie_word_embeddings": True}))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, tmp_path / "model.safetensors")
    assert check_llama(tmp_path).tie_word_embeddings
    assert load_llama(tmp_path).lm_head is None


def tiny(**changes):
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
    )
    return nnx.jit(lambda: Llama(dataclasses.replace(config, **changes), rngs=nnx.Rngs(0)))()


def test_wrong_configs_raise(tmp_path):
    save_llama(tiny(), tmp_path)
    path = tmp_path / "config.json"
    good = json.loads(path.read_text())
    for change, message in [
        ({"model_type": "gemma2", "architectures": None}, r"'gemma2'.*llama \(LlamaForCausalLM\), mistral"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"vocab_size": ...}, r"lacks \['vocab_size'\]"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2}}, "'longrope' is not supported"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2, "alpha": 3}}, r"\['alpha'\], which type 'linear'"),
        ({"num_key_value_heads": 3}, "num_kv_heads"),
    ]:
        changed = {key: value for key, value in (good | change).items() if value is not ...}
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            load_llama(tmp_path)
    path.write_text(json.dumps(good | {"num_hidden_layers": 3, "intermediate_size": 13}))
    with pytest.raises(TableError) as error:
        load_llama(tmp_path)
    for part in (
        "unfilled: layers/mlp/up_proj/kernel needs model.layers.2",
        "misshapen: model.layers.0.mlp.up_proj",
    ):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="rngs"):
        path.write_text(json.dumps(good))
        load_llama(tmp_path, lora=LoRAConfig(1, 1, 0, ("q_proj",)))
    with pytest.raises(ValueError, match="eos_token"):
        save_llama(tiny(), tmp_path, eos_token=2)
    with pytest.raises(FileNotFoundError, match="not a Hugging Face model directory"):
        load_llama(tmp_path / "nowhere")
