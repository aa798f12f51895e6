"""CONTRIBUTING.md: its diffs fit the package as it is, and what they add works, in a copy of it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import transformers

ROOT = Path(__file__).parents[1]
DIFF = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FAMILY = {"attention_bias": True, "attention_out_bias": False, "mlp_bias": True, "residual_dropout": 0.0}
TOWER = {"intermediate_size": 48, "num_attention_heads": 4, "hidden_size": 32, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package with all diffs applied."""
    folder = tmp_path_factory.mktemp("copy")
    for part in ("revision_jax", "configs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    diffs = DIFF.findall((ROOT / "CONTRIBUTING.md").read_text())
    for diff in diffs:
        done = subprocess.run(["git", "apply", "-"], input=diff, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{diff.partition('@@')[0]}{done.stderr}; change the diff in CONTRIBUTING.md"
        files = re.findall(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE)
        for file in files:  # `git apply` passes over files in silence within another repository
            assert not (ROOT / file).exists() or (ROOT / file).read_text() != (folder / file).read_text(), file
    assert len(diffs) == 5
    return folder


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, torch):
    """transformers' models of the family and the encoder, tiny and random, saved in `folder`; what they compute."""
    folder = tmp_path_factory.mktemp("theirs")
    from tiny_families import SIZES

    torch.manual_seed(0)
    dropped = {"attention_dropout": 0.0, "head_dim": 8}
    llm = transformers.SeedOssForCausalLM(transformers.SeedOssConfig(**SIZES | FAMILY | dropped)).eval()
    text = TOWER | {"vocab_size": 50, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 2}
    sizes = {"vision_config": TOWER | {"image_size": 24, "patch_size": 8}, "text_config": text, "projection_dim": 20}
    clip = transformers.MetaClip2Model(transformers.MetaClip2Config(**sizes)).eval()
    rng = np.random.default_rng(0)
    tokens, pixels = rng.integers(3, 50, (2, 20)), rng.standard_normal((2, 24, 24, 3), np.float32)
    texts = np.array([[0, 49, 8, 7, 2, 1, 1], [0, 5, 2, 1, 1, 1, 1]])  # the end is not the largest id
    with torch.no_grad():
        for parameter in (*llm.parameters(), *clip.parameters()):
            parameter.add_(0.2 * torch.randn_like(parameter))
        images = clip.get_image_features(torch.tensor(pixels.transpose(0, 3, 1, 2))).pooler_output
        sentences = clip.get_text_features(torch.tensor(texts)).pooler_output
        wanted = {"logits": llm(torch.tensor(tokens)).logits, "images": images, "texts": sentences}
    llm.save_pretrained(folder / "seed_oss")
    clip.save_pretrained(folder / "metaclip")
    np.savez(folder / "given.npz", tokens=tokens, pixels=pixels, texts=texts)
    return SimpleNamespace(folder=folder, wanted={name: value.numpy() for name, value in wanted.items()})


def added(copy, *arguments):
    """What `added.py` says, in a process of its own."""
    rooms = [copy, ROOT / "tests/runs"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, rooms))}
    command = [sys.executable, ROOT / "tests/added.py", *arguments]
    done = subprocess.run([*map(str, command)], cwd=copy, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().split("\n")[-1])


@pytest.fixture(scope="module")
def found(copy, tmp_path_factory, long_run, chain, trained_run):
    return added(copy, tmp_path_factory.mktemp("added"), long_run, chain.folder, trained_run.video)


def test_a_family_and_an_encoder_compute_what_transformers_does(copy, theirs):
    told = added(copy, theirs.folder)
    assert told["kind"] == "metaclip_2" and "o_proj" not in told["biases"]
    for name, ours in np.load(theirs.folder / "found.npz").items():
        wanted = theirs.wanted[name]
        np.testing.assert_allclose(ours, wanted, atol=1e-4 * max(1, np.abs(wanted).max()), err_msg=name)
    _, info = transformers.MetaClip2Model.from_pretrained(theirs.folder / "again", output_loading_info=True)
    assert not any(info.values())


def test_a_data_set_is_prepared_and_its_gaps_are_told(found):
    code, out, err, sentences = found["data set"]
    assert sentences == ["the budget", "questions"], (code, out, err)
    told = re.sub(r"[\s│]", "", out)  # a table breaks what is long
    assert "minutes.txtline4" in told and "expected`recording|start|end|whathappens`" in told, out


def test_a_policy_is_searched_with(found):
    asked = {name: {tuple(one) for one in found["policy"][name]} for name in ("top_down", "least_likely")}
    assert asked["least_likely"] and not asked["least_likely"] & asked["top_down"]
    code, _, err = found["policy"]["refused"]
    assert code == 2 and "does not search at depth 1" in err


def test_a_negative_strategy_is_trained_with(found):
    starts = {
        name: [float(re.search(r"([\d.]+) to ", place)[1]) for place in drawn]
        for name, drawn in found["strategy"].items()
    }
    assert len(starts["earliest"]) > 2 and np.mean(starts["earliest"]) < np.mean(starts["random"]) - 10
