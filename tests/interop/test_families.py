"""Families of language models against transformers on tiny random weights, every layer; exact round trips.

`pytest tests/interop/test_families.py -k every_layer -s` prints the table of docs/benchmarks.md.
"""

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file
from tiny_families import FAMILIES, ROPES, tiny_family

from revision_jax.interop.llama import load_llama, read_llama_config, save_llama

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
