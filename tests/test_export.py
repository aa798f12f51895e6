"""The export verb on tiny runs of every stage: formats, the check, the manifest, a kill."""

import json
import os
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from tiny_base import chain_config

from revision_jax import export
from revision_jax.checkpoint import Checkpoints
from revision_jax.checkpoint_record import Meta
from revision_jax.interop.check import CheckError
from revision_jax.interop.files import read_tensors
from revision_jax.interop.table import flat_params
from revision_jax.interop.weights import Weights
from revision_jax.models.adapter import DenseAdapter
from revision_jax.runs import exporting
from revision_jax.runs.grounder import fingerprints
from revision_jax.runs.run import Run
from revision_jax.training.workdir import open_workdir

TORCH_FORMATS = [form for form in export.FORMATS if form != exporting.BUNDLE]  # tests/runs/test_bundle.py has bundles


def _export(workdir, out, form, *flags):
    return export.main(["--workdir", str(workdir), "--out", str(out), "--format", form, *flags])


@pytest.mark.parametrize("stage", ["dense", "sparse"])
@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[pytest.mark.parity] * (form == "revisionllm")) for form in TORCH_FORMATS]
)
def test_every_format_of_a_run_is_written_checked_and_described(chain, tmp_path, stage, form, capsys):
    out = tmp_path / "out"
    assert _export(chain.folder / stage, out, form) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["stage"] == stage and manifest["run"]["step"] == 4
    assert {"llm", "encoder", "projector"} <= set(manifest["base"]) and len(manifest["base"]["llm"]["sha256"]) == 64
    (level, check), = manifest["check"].items()  # fmt: skip
    assert level == stage and check["passed"] and check["tokens"] == check["tokens_equal"] > 8
    assert 0 <= check["max_difference"] <= check["tolerance"] < 1e-3 * max(1, check["max_value"])
    printed = capsys.readouterr().out
    for path in out.iterdir():
        assert path.name in printed
    assert not (tmp_path / "out.partial").exists()
    assert _export(chain.folder / stage, out, form) == 2
    assert "exists already" in capsys.readouterr().err


def test_merged_weights_are_the_models_own(trained_run, tmp_path):
    """Against `merge()` of the model that training uses; sharded, in another dtype, with tokenizer and card."""
    out = tmp_path / "out"
    assert _export(trained_run.workdir, out, "huggingface", "--dtype", "float32", "--shard-gib", "1e-5") == 0
    names = sorted(path.name for path in out.glob("*.safetensors*"))
    assert "model.safetensors.index.json" in names and len([n for n in names if n.startswith("model-")]) > 3
    layer = Run.load(trained_run.workdir).grounder("trained").llm.layers.self_attn.q_proj
    written = np.stack([Weights(out)[f"model.layers.{i}.self_attn.q_proj.weight"] for i in range(2)])
    np.testing.assert_allclose(written.swapaxes(1, 2), layer.merge(), atol=1e-7)
    assert np.abs(written.swapaxes(1, 2) - layer.kernel[...]).max() > 1e-5
    card = (out / "README.md").read_text()
    assert "| R1@.1 |" in card and "all windows (depth 1)" in card and "| dense | " in card
    assert (out / "tokenizer.json").is_file() and json.loads((out / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes_pass_their_own_tolerance(chain, tmp_path, dtype):
    assert _export(chain.folder / "dense", tmp_path / "out", "huggingface", "--dtype", dtype) == 0
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert {array.dtype for array in tensors.values()} == {np.dtype(getattr(ml_dtypes, dtype, dtype))}


def test_weights_that_compute_something_else_fail_and_leave_nothing(chain, tmp_path, monkeypatch):
    write = exporting.WRITERS["huggingface"]

    def spoiled(config, parts, folder, *rest):
        write(config, parts._replace(lora=None), folder, *rest)  # as if the LoRA had been forgotten

    monkeypatch.setitem(exporting.WRITERS, "huggingface", spoiled)
    with pytest.raises(CheckError, match="does not compute what was read: largest difference"):
        exporting.export(chain.folder / "dense", tmp_path / "out", "huggingface")
    assert not list(tmp_path.iterdir())


def test_the_align_stage_gives_its_projector_alone(published, tmp_path, capsys):
    config = chain_config("configs/align.py", published.folder)
    adapter = DenseAdapter(16, 16, rngs=nnx.Rngs(7))
    open_workdir(tmp_path / "run", config)
    with Checkpoints(tmp_path / "run/checkpoints", Meta(config.to_dict(), fingerprints(config))) as checkpoints:
        checkpoints.save_weights(1, {f"adapter/{name}": param[...] for name, param in flat_params(adapter).items()})
    assert _export(tmp_path / "run", tmp_path / "out", "revisionllm") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["manifest.json", "mm_projector.bin"]
    tensors = read_tensors(tmp_path / "out/mm_projector.bin")
    np.testing.assert_array_equal(tensors["model.mm_projector.weight"], adapter.kernel[...].T)
    assert _export(tmp_path / "run", tmp_path / "lora", "peft") == 2
    assert "stage 'align', which has no LoRA to export" in capsys.readouterr().err


KILLED = """
import os, signal, sys
import tensorflow_datasets  # an old one asks whether PyTorch is there, and takes None for yes
sys.modules["torch"] = None  # this format does not need it
from revision_jax import export
from revision_jax.interop import shards
whole = shards.write_tensors
def save(*args, **kwargs):
    save.count = getattr(save, "count", 0) + 1
    if save.count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(*args, **kwargs)
shards.write_tensors = save
export.main(sys.argv[1:])
"""


def test_a_killed_export_goes_on_where_it_stopped(chain, tmp_path, monkeypatch):
    workdir, flags = chain.folder / "dense", ["--format", "huggingface", "--shard-gib", "1e-5", "--no-check"]
    argv = ["--workdir", str(workdir), "--out", str(tmp_path / "out"), *flags]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run([sys.executable, "-c", KILLED, *argv], env=environment)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    left = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out.partial").glob("model-*.safetensors")}
    assert len(left) == 2
    assert export.main(argv) == 0
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("model-*.safetensors")}
    assert len(done) > 3 and done.items() >= left.items()  # those two were not written again
    assert export.main([*argv[:3], str(tmp_path / "whole"), *flags]) == 0
    for path in (tmp_path / "whole").glob("*.safetensors"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert json.loads((tmp_path / "out/manifest.json").read_text())["check"] is None


def test_errors_are_one_line(tmp_path, capsys):
    assert _export(tmp_path / "nowhere", tmp_path / "out", "peft") == 2
    assert "holds no trained run (config.json and checkpoints/)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_shows_an_example_of_each_format(capsys):
    with pytest.raises(SystemExit):
        export.main(["--help"])
    text = capsys.readouterr().out
    for form in export.FORMATS:
        assert f"--format {form}" in text
