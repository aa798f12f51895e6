"""The convert verb: runs from published stages, models from others' files, and bad input that leaves nothing behind."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tiny_base import overrides_of
from tiny_published import SPECS

from revision_jax import config as configs
from revision_jax import convert, ground, train
from revision_jax.checkpoint import CheckpointError
from revision_jax.interop.clip import load_clip
from revision_jax.interop.files import read_tensors
from revision_jax.interop.table import flat_params
from revision_jax.interop.weights import Weights
from revision_jax.runs import converting
from revision_jax.runs.exporting import export
from revision_jax.runs.run import Run, load_run
from revision_jax.runs.stage import STAGES
from revision_jax.runs.training import make_task
from revision_jax.training import loop

pytestmark = pytest.mark.parity


def fresh(spec, fields):
    """The grounder as a stage starts."""
    return Run(configs.load(spec, fields)).grounder("fresh")


# ----------------------------------------------------------------------------------------------- stages
@pytest.mark.parametrize("stage", SPECS)
def test_a_published_stage_becomes_a_run_and_goes_out_again_exactly(stage, published, tmp_path):
    manifest = published.convert(stage, tmp_path / "run")
    for check in manifest["check"].values():
        assert check["max_difference"] == 0 and check["tokens_equal"] == check["tokens"] > 8 and check["max_value"] > 1
    assert list(manifest["check"]) == list(STAGES[stage].adapters)
    assert manifest["source"]["path"].endswith(stage) and len(manifest["source"]["sha256"]) == 64
    export(tmp_path / "run", tmp_path / "again", "revisionllm", check=False)
    assert equal_files(published.stage(stage), tmp_path / "again") >= 28  # two halves of seven layers in two blocks


def equal_files(one, two):
    """Asserts that two stage directories hold the same tensors to the bit; returns how many."""
    compared = 0
    for path in one.iterdir():
        if path.suffix in (".bin", ".safetensors"):
            before, after = read_tensors(path), read_tensors(two / path.name)
            assert before.keys() == after.keys()
            for key in before:
                np.testing.assert_array_equal(after[key], before[key], strict=True)
            compared += len(before)
    return compared


def test_a_converted_run_does_not_resume_but_a_stage_starts_from_it(published, tmp_path):
    """VTimeLLM's LoRA and a published stage are both good for `init.dense`, as directories and as runs."""
    directory = published.overrides("dense", init__dense=str(published.stage("dense")))
    run = published.overrides("dense", init__dense=str(published.folder / "dense"))
    for overrides in (directory, run):
        llm = fresh(SPECS["dense"], overrides).llm
        tensors = load_file(published.stage("dense") / "adapter_model.safetensors")
        for half, ours in (("A", llm.layers.mlp.up_proj.lora_a), ("B", llm.layers.mlp.up_proj.lora_b)):
            theirs = tensors[f"base_model.model.model.layers.1.mlp.up_proj.lora_{half}.weight"]
            np.testing.assert_array_equal(ours[1], theirs.T)


def test_a_stage_after_it_starts_from_published_directories(published):
    overrides = published.overrides("long", init__sparse=str(published.stage("sparse")))
    ours = fresh(SPECS["long"], overrides)
    theirs = read_tensors(published.stage("sparse") / "non_lora_trainables.bin")
    key = "base_model.model.model.mm_projector.encoder.layers.1.linear1.weight"
    np.testing.assert_array_equal(ours.sparse.encoder.linear1.kernel[1], theirs[key].T)
    wrong = published.overrides("long", init__sparse=str(published.stage("dense")))
    with pytest.raises(configs.ConfigError, match=r"dense/non_lora_trainables.bin holds no sparse adapter"):
        fresh(SPECS["long"], wrong)
    rank = published.overrides("long", init__dense=str(published.stage("dense")), lora__rank=4, lora__alpha=1.0)
    with pytest.raises(configs.ConfigError, match=r"(?s)adapter_config.json.*lora.rank: 3 there, 4 here.*lora.alpha"):
        fresh(SPECS["long"], rank)


def test_a_stage_of_two_levels_goes_out_merged_and_is_checked_at_both(published, tmp_path):
    given = {"spec": SPECS["unified"], "fields": published.overrides("unified")}
    converting.convert("stage", published.stage("unified"), tmp_path / "run", options={"check": False}, **given)
    manifest = export(tmp_path / "run", tmp_path / "merged", "huggingface")
    assert list(manifest["check"]) == ["dense", "sparse"] and manifest["dtype"] == "float32"
    for check in manifest["check"].values():
        assert check["passed"] and check["tokens_equal"] == check["tokens"] > 8 and check["max_value"] > 1
    adapters = {path.name for path in (tmp_path / "merged").glob("*_*.safetensors")}
    assert adapters == {"mm_projector.safetensors", "sparse_adapter.safetensors"}


def test_a_trained_run_out_and_in_again_finds_the_same_but_does_not_train_on(trained_run, tmp_path):
    export(trained_run.workdir, tmp_path / "out", "revisionllm")
    overrides = configs.flatten(trained_run.config)
    converting.convert("stage", tmp_path / "out", tmp_path / "run", spec=SPECS["dense"], fields=overrides)
    found = []
    for workdir in (trained_run.workdir, tmp_path / "run"):
        run = load_run(workdir)
        results = run.ground(run.encode(trained_run.video), ["a red circle", "a blue star spins"])
        found.append([result.moments.tolist() for result in results])
    assert found[0] == found[1] and any(found[0])
    task = make_task(Run(trained_run.config), trained_run.directories)
    with pytest.raises(CheckpointError, match=r"converted, with no optimizer.*init\.dense"):
        loop.run(trained_run.config, tmp_path / "run", task)


def test_parts_that_a_stage_was_not_trained_behind_are_refused(published, tmp_path):
    stage = shutil.copytree(published.stage("sparse"), tmp_path / "stage")
    tensors = load_file(stage / "adapter_model.safetensors")
    save_file({key: value + 1 for key, value in tensors.items()}, stage / "adapter_model.safetensors")
    overrides = published.overrides("sparse")
    with pytest.raises(configs.ConfigError, match=r"stands on other parts .* llm/layers.*lora_a and 13 more differ"):
        converting.convert("stage", stage, tmp_path / "run", spec=SPECS["sparse"], fields=overrides)
    with pytest.raises(configs.ConfigError, match=r"does not hold \['sparse/.* which stage 'sparse' trains"):
        converting.convert("stage", published.stage("dense"), tmp_path / "run", spec=SPECS["sparse"], fields=overrides)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage"]


# ----------------------------------------------------------------------------------------------- models
def test_llama_and_clip_from_pytorch_shards(published, tmp_path):
    base = published.folder / "base"
    manifest = converting.convert("llama", base / "llm", tmp_path / "llm", options={"shard_gib": 1e-5})
    assert manifest["check"]["logits"]["max_difference"] == 0 and manifest["check"]["logits"]["tokens"] == 48
    before, after = Weights(base / "llm"), Weights(tmp_path / "llm")
    assert before.keys() == after.keys() and len(after.files) > 3
    for key in before:
        np.testing.assert_array_equal(np.asarray(after[key]), np.asarray(before[key]))
    assert (tmp_path / "llm/tokenizer.json").is_file()

    manifest = converting.convert("clip", base / "clip", tmp_path / "clip", options={"dtype": "float16"})
    assert {check["passed"] for check in manifest["check"].values()} == {True}
    assert load_clip(tmp_path / "clip").config == load_clip(base / "clip").config
    converting.convert("projector", base / "mm_projector.bin", tmp_path / "projector")
    weight = load_file(tmp_path / "projector/projector.safetensors")["mm_projector.weight"]
    np.testing.assert_array_equal(weight, torch.load(base / "mm_projector.bin")["model.mm_projector.weight"])


def test_loading_reads_every_tensor_once(published, tmp_path, monkeypatch):
    from revision_jax.interop import llama

    converting.convert("llama", published.folder / "base/llm", tmp_path / "llm", options={"check": False})
    opened = []

    class Counted(Weights):
        def __init__(self, directory):
            super().__init__(directory)
            opened.append(self)

    monkeypatch.setattr(llama, "Weights", Counted)
    for directory in (tmp_path / "llm", published.folder / "base/llm"):
        llama.load_llama(directory)
        weights = opened.pop()
        assert set(weights.reads.values()) == {1} and weights.reads.keys() == weights.keys()
        assert weights.bytes_read == sum(4 * int(np.prod(tensor.shape)) for tensor in weights.values())


# ----------------------------------------------------------------------------------------------- bad input
@pytest.fixture
def llm(published, tmp_path):
    """A copy of the base LLM in two safetensors shards and an index."""
    converting.convert(
        "llama", published.folder / "base/llm", tmp_path / "in", options={"shard_gib": 2.5e-5, "check": False}
    )
    (tmp_path / "in/manifest.json").unlink()
    return tmp_path / "in"


def refused(capsys, tmp_path, *argv):
    """The one error line of a convert that fails; nothing is left of it."""
    before = sorted(tmp_path.rglob("*"))
    assert convert.main([*map(str, argv), "--out", str(tmp_path / "out")]) == 2
    assert sorted(tmp_path.rglob("*")) == before
    return capsys.readouterr().err


def test_a_missing_shard(llm, tmp_path, capsys):
    shard = sorted(llm.glob("model-*"))[-1]
    shard.unlink()
    text = refused(capsys, tmp_path, "--format", "llama", "--source", llm)
    assert shard.name in text and "says that they hold" in text and "model." in text.partition("they hold")[2]


def test_a_shard_cut_in_half(llm, tmp_path, capsys):
    shard = sorted(llm.glob("model-*"))[-1]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    text = refused(capsys, tmp_path, "--format", "llama", "--source", llm)
    assert f"{shard}: not a whole safetensors file" in text and "model." in text


def test_a_pytorch_shard_cut_in_half(published, tmp_path, capsys):
    llm = shutil.copytree(published.folder / "base/llm", tmp_path / "in")
    shard = sorted(llm.glob("pytorch_model-*.bin"))[-1]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    text = refused(capsys, tmp_path, "--format", "llama", "--source", llm)
    assert f"{shard}: not a whole PyTorch archive" in text and "model.layers" in text


def test_tensors_that_the_config_does_not_expect(llm, tmp_path, capsys):
    raw = json.loads((llm / "config.json").read_text())
    (llm / "config.json").write_text(json.dumps(raw | {"num_hidden_layers": 3, "intermediate_size": 25}))
    text = refused(capsys, tmp_path, "--format", "llama", "--source", llm)
    assert f"disagreements between {llm} and the model" in text
    assert "unfilled: layers/mlp/up_proj/kernel needs model.layers.2.mlp.up_proj.weight" in text
    assert "misshapen: model.layers.0.mlp.up_proj.weight is (24, 16)" in text


class Stranger:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_pickle_with_code_in_it(published, tmp_path, capsys):
    torch.save({"mm_projector.weight": Stranger()}, tmp_path / "mm_projector.bin")
    text = refused(capsys, tmp_path, "--format", "projector", "--source", tmp_path / "mm_projector.bin")
    assert "mm_projector.bin: holds more than tensors and was not read" in text and "print" in text
    stage = shutil.copytree(published.stage("dense"), tmp_path / "stage")
    torch.save({"base_model.model.model.x": Stranger()}, stage / "non_lora_trainables.bin")
    flags = [f"--config.{key}={value}" for key, value in _flags(published.overrides("dense")).items()]
    text = refused(capsys, tmp_path, "--format", "stage", "--source", stage, "--config", SPECS["dense"], *flags)
    assert "non_lora_trainables.bin: holds more than tensors" in text


def _flags(overrides):
    return {key: value for key, value in overrides.items() if key.startswith(("base.", "lora.", "prompt.max"))}


@pytest.mark.parametrize(
    "changes, told",
    [
        (
            {"r": 5},
            r"(?s)adapter_model.safetensors \(r 5.*misshapen: .*lora_A.weight is \(3, 16\).*\(5, 16\)",
        ),
        ({"target_modules": ["query_key_value"]}, r"adapter_config.json(?s:.*)\['query_key_value'\] are none of"),
        ({"target_modules": ["q_proj"]}, r"unmapped: base_model.*k_proj\.lora_A\.weight has no row"),
    ],
)
def test_a_lora_that_does_not_fit(published, tmp_path, changes, told):
    stage = shutil.copytree(published.stage("dense"), tmp_path / "stage")
    path = stage / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=told):
        converting.convert("stage", stage, tmp_path / "run", spec=SPECS["dense"], fields=published.overrides("dense"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage"]


def test_a_clip_of_another_width(published, tmp_path, capsys):
    """As with B/32, whose features are 512 wide, where the projector was trained on L/14's."""
    clip = shutil.copytree(published.folder / "base/clip", tmp_path / "clip")
    raw = json.loads((clip / "config.json").read_text())
    (clip / "config.json").write_text(json.dumps(raw | {"projection_dim": 512}))
    overrides = published.overrides("dense", base__encoder=str(clip))
    told = r"clip/config.json tells .* width 512 \(as CLIP ViT-B/32 or B/16\).*mm_projector.bin, is \(16, 16\)"
    with pytest.raises(configs.ConfigError, match=told):
        converting.convert("stage", published.stage("dense"), tmp_path / "run", spec=SPECS["dense"], fields=overrides)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip"]


def test_flags_without_effect_and_missing_sources(tmp_path, capsys):
    assert "does not exist" in refused(capsys, tmp_path, "--format", "llama", "--source", tmp_path / "nowhere")
    for extra in (["--config.seed=1"], ["--dtype", "float16"]):
        with pytest.raises(SystemExit):
            convert.main(["--format", "projector", "--source", "x", "--out", "y", *extra])
        assert "has no effect with --format projector" in capsys.readouterr().err


def test_help_shows_an_example_of_each_format(capsys):
    with pytest.raises(SystemExit):
        convert.main(["--help"])
    text = capsys.readouterr().out
    for form in convert.FORMATS:
        assert f"--format {form} --source" in text


# ----------------------------------------------------------------------------------------------- train and ground
def test_train_and_ground_ran_from_pytorchs_files(trained_run, capfd):
    """Nothing but paths tells this run's base from another's."""
    config = trained_run.config
    names = {role: sorted(p.name for p in _files(path)) for role, path in config.base.items()}
    assert not any(name.endswith(".safetensors") for files in names.values() for name in files)
    assert len([name for name in names["llm"] if name.endswith(".bin")]) == 2
    assert names["projector"] == ["mm_projector.bin"]
    assert trained_run.metrics["train_steps"] == config.train.steps == 4
    assert ground.main([str(trained_run.video), "a red circle", "--workdir", str(trained_run.workdir)]) == 0
    assert "a red circle" in capfd.readouterr().out


def _files(path):
    return Path(path).iterdir() if Path(path).is_dir() else [Path(path)]


def test_pytorchs_files_and_safetensors_give_one_grounder(published, tmp_path):
    base = published.folder / "base"
    for form, source in (("llama", "llm"), ("clip", "clip"), ("projector", "mm_projector.bin")):
        converting.convert(form, base / source, tmp_path / form, options={"check": False})
    paths = {"llm": "llama", "encoder": "clip", "projector": "projector/projector.safetensors"}
    ours = published.overrides("dense") | {f"base.{role}": str(tmp_path / path) for role, path in paths.items()}
    one, two = (flat_params(fresh(SPECS["dense"], given)) for given in (published.overrides("dense"), ours))
    assert one.keys() == two.keys() and len(one) > 20
    for path in one:
        np.testing.assert_array_equal(one[path][...], two[path][...])


def _spoil_llm(base):
    sorted((base / "llm").glob("pytorch_model-*.bin"))[1].unlink()


def _cut_llm(base):
    shard = sorted((base / "llm").glob("pytorch_model-*.bin"))[0]
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])


def _spoil_clip(base):
    raw = json.loads((base / "clip/config.json").read_text())
    (base / "clip/config.json").write_text(json.dumps(raw | {"projection_dim": 512}))


def _spoil_projector(base):
    torch.save({"model.mm_projector.weight": Stranger()}, base / "mm_projector.bin")


def _other_projector(base):
    torch.save(
        {"mm_projector.weight": torch.ones(40, 16), "mm_projector.bias": torch.ones(40)}, base / "mm_projector.bin"
    )


@pytest.mark.parametrize(
    "spoil, told",
    [
        (_spoil_llm, r"weight files are missing: .*pytorch_model-00002-of-00002.bin.*says that they hold .*model\."),
        (_cut_llm, r"pytorch_model-00001-of-00002.bin: not a whole PyTorch archive .*should hold .*model\."),
        (
            _spoil_clip,
            r"clip/config.json tells .* width 512 \(as CLIP ViT-B/32 or B/16\).*mm_projector.bin",
        ),
        (_spoil_projector, r"mm_projector.bin: holds more than tensors"),
        (_other_projector, r"mm_projector.bin gives width 40; base.llm, .*llm, has hidden_size 16"),
    ],
)
def test_train_refuses_a_bad_base_before_anything_is_made(spoil, told, published, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spoil(shutil.copytree(published.folder / "base", tmp_path / "base"))
    overrides = overrides_of(tmp_path / "base", tmp_path / "data")
    flags = [f"--config.{key}={value}" for key, value in overrides.items()]
    before = sorted(tmp_path.rglob("*"))
    assert train.main(["--workdir", str(tmp_path / "run"), *flags]) == 2
    text = capsys.readouterr().err
    assert re.search(told, text) and "executed" not in text
    assert sorted(tmp_path.rglob("*")) == before
