"""Families of language models against transformers on tiny random weights, every layer; exact round trips.

`pytest tests/interop/test_families.py -k every_layer -s` prints the table of docs/benchmarks.md.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from tiny_families import FAMILIES, ROPES, tiny_family

from revision_jax.interop.families import config_json_of, llama_config_of
from revision_jax.interop.llama import load_llama, read_llama_config, save_llama
from revision_jax.models.llama import LlamaConfig

pytestmark = pytest.mark.parity
# Hidden states are of order 10, and two float32 programs differ by the order of their sums: 1e-4 relative to the
# largest value of a layer.
TOLERANCE = 1e-4


def differences(model, hf, tokens):
    """Largest absolute difference, and the largest value, of embeddings, every block, the final norm and the logits."""
    with torch.no_grad():
        out = hf(torch.tensor(tokens), output_hidden_states=True)

    @jax.jit
    def run(tokens):
        final, _, states = model.prefill(model.embed(tokens), states=True)
        return states[:-1], final, model.logits(final)

    states, final, logits = run(tokens)
    assert len(out.hidden_states) == len(states) + 1  # transformers' last entry is after the final norm
    pairs = [*zip(states, out.hidden_states), (final, out.hidden_states[-1]), (logits, out.logits)]
    return [(np.abs(np.asarray(ours) - theirs.numpy()).max(), theirs.abs().max().item()) for ours, theirs in pairs]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """Family -> a directory as transformers saves it; do not change it."""
    folder = tmp_path_factory.mktemp("families")
    for family in ("mistral", "qwen2", "qwen3"):
        tiny_family(family).save_pretrained(folder / family)
    return {path.name: path for path in folder.iterdir()}


CASES = [(family, "default") for family in FAMILIES]
CASES += [("qwen3", rope) for rope in ROPES if rope != "default"]
CASES += [("llama", "yarn"), ("mistral", "dynamic"), ("qwen2", "yarn, factor")]  # rotations know nothing of families


@pytest.mark.parametrize("family, rope", CASES)
def test_every_layer_equals_transformers_and_the_round_trip_is_exact(family, rope, tmp_path):
    hf = tiny_family(family, rope)
    hf.save_pretrained(tmp_path / "theirs")
    model = load_llama(tmp_path / "theirs")
    tokens = np.random.default_rng(0).integers(0, 61, (2, 40))
    found = differences(model, hf, tokens)
    print(f"| {family} | {rope} | " + " | ".join(f"{difference:.1e}" for difference, _ in found) + " |")
    for difference, largest in found:
        assert difference <= TOLERANCE * max(1, largest)

    save_llama(model, tmp_path / "ours", bos_token_id=1, eos_token_id=2)
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert sorted(ours) == sorted(theirs)
    for key in theirs:
        np.testing.assert_array_equal(ours[key], theirs[key])
    again, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(hf) and not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(again(torch.tensor(tokens)).logits, hf(torch.tensor(tokens)).logits)
    assert read_llama_config(tmp_path / "ours") == model.config


SOME = {"use_sliding_window": True, "sliding_window": 9}


@pytest.mark.parametrize(
    "family, changes, window",
    [
        ("mistral", {}, 40),
        ("mistral", {"sliding_window": None}, None),
        ("mistral", {"sliding_window": ...}, 4096),  # transformers' default
        ("qwen2", {}, None),
        ("qwen2", SOME | {"layer_types": None, "max_window_layers": 2}, 9),
        ("qwen2", SOME | {"layer_types": None, "max_window_layers": 3}, None),
        ("qwen3", SOME | {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, 9),
        ("qwen3", {"sliding_window": 9, "use_sliding_window": False}, None),
    ],
)
def test_a_sliding_window_is_read_as_each_family_says_it(directories, family, changes, window):
    raw = json.loads((directories[family] / "config.json").read_text()) | changes
    raw = {key: value for key, value in raw.items() if value is not ...}
    assert llama_config_of(raw, "config.json").sliding_window == window


def test_what_a_familys_files_cannot_say_is_not_written():
    sizes = LlamaConfig(11, 8, 12, 2, 2, 1, 4)
    for changes in (
        {"qk_norm": True},
        {"family": "qwen2"},  # always with biases
        {"family": "mistral", "biases": ("q_proj", "k_proj", "v_proj", "o_proj")},
        {"biases": ("q_proj",)},
        {"family": "qwen3", "qk_norm": True, "sliding_window": 4},  # of which layers?
    ):
        with pytest.raises(ValueError, match="cannot be said in the config"):
            config_json_of(dataclasses.replace(sizes, **changes), "float32")
    assert config_json_of(dataclasses.replace(sizes, family="mistral", sliding_window=4), "float32")


def test_a_config_without_model_type_is_told_by_its_architecture(directories, tmp_path):
    raw = json.loads((directories["qwen3"] / "config.json").read_text())
    del raw["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert read_llama_config(tmp_path) == read_llama_config(directories["qwen3"])
    (tmp_path / "config.json").write_text(json.dumps(raw | {"architectures": None}))
    with pytest.raises(ValueError, match=r"qwen3 \(Qwen3ForCausalLM"):
        read_llama_config(tmp_path)


def test_older_spellings_of_rotary_positions(directories):
    """Qwen's own advice for long texts: `type`, positions left as they were."""
    raw = json.loads((directories["qwen2"] / "config.json").read_text())
    del raw["rope_parameters"]
    raw |= {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    config = llama_config_of(raw, "config.json")
    assert config.rope_theta == 1e6 and config.max_position_embeddings == 128
    expected = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    assert config.rope_scaling == expected
    raw |= {"rope_scaling": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 32}}
    assert llama_config_of(raw, "config.json").rope_scaling["factor"] == 4.0
    raw |= {"rope_scaling": None, "rope_theta": 1e6}
    assert llama_config_of(raw, "config.json").rope_scaling is None
