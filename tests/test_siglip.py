"""The whole way with a SigLIP in place of CLIP: features, both stages, scores, an answer from an exported bundle."""

import json

import jax
import numpy as np
import pytest
from tiny_base import chain_config, make_base
from tiny_siglip import SIZE, make_siglip

from revision_jax import compile as compile_verb
from revision_jax import evaluate, export, prepare
from revision_jax.config import ConfigError
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.video.frames import write_video
from revision_jax.parallel.topology import Topology
from revision_jax.runs.grounder import abstract_grounder
from revision_jax.runs.run import Run, load_run
from revision_jax.runs.splits import prepare_data
from revision_jax.runs.training import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`base/` with a SigLIP beside the CLIP, `data/` of its features."""
    folder = tmp_path_factory.mktemp("siglip")
    make_base(folder / "base", width=16)
    make_siglip(folder / "base/siglip", width=16)
    return folder


def config_of(folder, spec, **changes):
    changes = {"base__encoder": str(folder / "base/siglip")} | changes  # the programs are those of `chain`
    return chain_config(spec, folder, **changes)


def test_both_stages_train_and_an_exported_run_answers(folder, capsys):
    dense = config_of(folder, "configs/stage1.py")
    directories = dict(prepare_data(dense))
    run = Run(dense, folder / "dense")
    train(run, directories)
    store = FeatureStore(directories["test"])
    assert store.manifest.encoder == "base/siglip" and store.manifest.encoder_sha256 == run.extractor.fingerprint

    sparse = Run(config_of(folder, "configs/stage1_sparse.py"), folder / "sparse")
    train(sparse, directories)
    assert sparse.steps == 4

    out = folder / "bundle"
    assert export.main(["--workdir", str(folder / "dense"), "--out", str(out), "--format", "bundle"]) == 0
    arguments = ["--workdir", str(out), "--data", str(directories["test"]), "--out", "similarity"]
    assert evaluate.main([*arguments, "--methods", "clip"]) == 0  # the encoder alone
    video = next((directories["test"] / "videos").iterdir())
    (answer,) = load_run(out).ground(video, "A red circle moves left")
    assert answer.windows > 0 and np.isfinite(answer.moments).all()


def test_features_of_another_encoder_are_refused(folder, capsys):
    videos = folder / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", [np.random.default_rng(0).integers(0, 255, (20, SIZE, 64, 3), np.uint8)], 2.0)
    arguments = ["folder", "--videos", str(videos), "--out", str(folder / "own"), "--split", "test", "--fps", "2"]
    assert prepare.main([*arguments, "--encoder", str(folder / "base/siglip")]) == 0
    assert prepare.main(["check", str(folder / "own"), "--encoder", str(folder / "base/siglip")]) == 0
    capsys.readouterr()
    assert prepare.main(["check", str(folder / "own"), "--encoder", str(folder / "base/clip")]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "base/siglip" in shown and "expected base/clip" in shown


def test_the_encoder_compiles_for_described_devices(folder, capsys, monkeypatch):
    monkeypatch.setattr(Topology, "devices", lambda self: jax.devices()[: self.num_chips])
    config = ["--config", "configs/stage1.py", f"--config.base.encoder={folder / 'base/siglip'}"]
    assert compile_verb.main([*config, "--program", "extract", "--topology", "v5e-1"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["program"] == "extract, 128 frames a chip" and report["fits"]


def test_tokens_of_another_width_are_refused_by_the_sparse_adapter_alone(folder, tmp_path):
    raw = json.loads((folder / "base/siglip/config.json").read_text())
    raw["text_config"]["hidden_size"] = 8
    (tmp_path / "config.json").write_text(json.dumps(raw))
    changes = {"base__encoder": str(tmp_path)}
    assert abstract_grounder(config_of(folder, "configs/stage1.py", **changes)).sparse is None
    with pytest.raises(ConfigError, match=r"text tokens of width 8 and features of width 16; the sparse adapter"):
        abstract_grounder(config_of(folder, "configs/stage1_sparse.py", **changes))
