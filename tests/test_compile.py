"""The compile verb, with CPU devices in place of a described slice: libtpu is not part of the tests."""

import json

import jax
import pytest

from revision_jax import compile as verb
from revision_jax.parallel import topology as topologies
from revision_jax.parallel.topology import CHIPS, Topology

TINY = ["--config", "configs/stage1.py", "--topology", "v5e-1", "--config.train.batch_size=4"]


@pytest.fixture
def on_cpu(monkeypatch):
    """A slice of one chip is one CPU device."""
    monkeypatch.setattr(Topology, "devices", lambda self: jax.devices()[: self.num_chips])


def test_a_program_that_fits(on_cpu, capsys, tmp_path):
    assert verb.main([*TINY, "--out", str(tmp_path / "fits.jsonl")]) == 0
    printed = capsys.readouterr().out
    (report,) = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert json.loads((tmp_path / "fits.jsonl").read_text()) == report
    assert report["fits"] and report["spare"] > 0.5 and report["advice"] == ""
    assert (report["program"], report["mesh"]) == ("train, windows", {"data": 1, "fsdp": 1, "tensor": 1})
    parts = report["parts_gib"]
    assert set(parts) == {"frozen weights", "trained", "optimizer", "batch", "activations and temporaries"}
    assert 2 * parts["trained"] == pytest.approx(parts["optimizer"], abs=2e-3)
    assert report["collectives"] == {} and report["unplanned_gathers"] == []
    assert report["model_tflops"] > 0 and 0 < report["roofline_mfu"] <= 1


def test_one_that_does_not_fit_says_what_to_change(on_cpu, capsys, monkeypatch):
    small = {**CHIPS, "v5e": CHIPS["v5e"].__class__(**{**vars(CHIPS["v5e"]), "hbm_gib": 0.02})}
    monkeypatch.setattr(topologies, "CHIPS", small)
    assert verb.main(TINY) == 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not report["fits"] and report["peak_gib"] > report["hbm_gib"] == 0.02
    assert report["advice"].startswith("set model.remat to 'mlp' (now 'none')")


def test_all_kinds_of_batches_and_programs(on_cpu, capsys):
    assert verb.main(["--config", "configs/stage2.py", *TINY[2:]]) == 0
    assert verb.main([*TINY, "--program", "search"]) == 0
    assert verb.main(["--config", "configs/stage2.py", *TINY[2:], "--program", "search"]) == 0
    assert verb.main([*TINY, "--program", "extract"]) == 0
    names = [json.loads(line)["program"] for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert names[:2] == ["train, groups of 48", "train, groups of 16"]
    assert names[2:] == ["search, depth 1", "search, depth 3", "extract, 128 frames a chip"]


def test_mistakes_are_one_line(capsys):
    assert verb.main(["--config", "configs/stage1.py", "--topology", "v9-1"]) == 2
    assert "error: unknown topology 'v9-1'" in capsys.readouterr().err
