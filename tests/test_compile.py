"""The compile verb, with CPU devices in place of a described slice: libtpu is not part of the tests."""

import json

import jax
import pytest

from revision_jax import compile as verb
from revision_jax import config as configs
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


def test_what_xla_refuses_is_read_from_its_words(capsys):
    def lower():
        raise RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory. Used 18.75G of 15.75G hbm. Exceeded by 3.00G.")

    report = verb.compile_one(lower, Topology.parse("v5e-16"), {"parts": {"frozen weights": 2**30}})
    assert report == {
        "parts_gib": {"frozen weights": 1.0}, "fits": False, "peak_gib": 18.75, "hbm_gib": 15.75, "spare": 0.0
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="something else"):
        verb.compile_one(
            lambda: (_ for _ in ()).throw(RuntimeError("something else")), Topology.parse("v5e-16"), {"parts": {}}
        )


@pytest.mark.parametrize(
    "weights, what, changes, advice",
    [
        (13.0, "train", {}, "raise mesh.fsdp"),
        (13.0, "search", {}, "raise mesh.tensor"),
        (1.0, "search", {}, "lower search.window_block"),
        (1.0, "train", {"model.remat": "names"}, "set model.remat to 'full'"),
        (1.0, "train", {"model.remat": "full"}, "raise train.accumulate"),
    ],
)
def test_advice_goes_to_what_takes_the_memory(weights, what, changes, advice):
    report = {"parts_gib": {"frozen weights": weights}, "hbm_gib": 16.0}
    assert verb.advise(configs.load(overrides=changes), report, what).find(advice) >= 0


def test_between_slices_gradients_take_the_slow_network():
    sent = {"all-reduce": {"bytes": 3.1e9}, "all-gather": {"bytes": 2e9}}
    report = {"parts_gib": {"activations and temporaries": 0.0}, "collectives": sent}
    facts = {"flops": 1e12, "executed": 1e12, "weight_bytes": 0.0}
    seconds = [verb.roofline(Topology.parse(name), facts, report)["network_s"] for name in ("v5e-16", "2xv5e-16")]
    assert seconds == pytest.approx([0.041, 2.01])  # 200 GB/s inside a slice, 3.1 GB/s a chip between them


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


def test_recomputed_products_are_those_that_a_policy_does_not_keep():
    from revision_jax.training.flops import FlopCount

    shapes = {f"llm/layers/x/{name}/kernel": (2, 3, 5) for name in ("q_proj", "o_proj", "gate_proj", "up_proj")}
    batch = {"video": jax.ShapeDtypeStruct((1, 4, 8), "float16"), "tokens": jax.ShapeDtypeStruct((1, 6), "int32")}
    found = {remat: verb.recomputed(remat, FlopCount(shapes, set(), 0), batch) for remat in verb.REMAT}
    one = 2.0 * 10 * 30
    assert found == {"none": 0, "mlp": one, "names": 3 * one, "full": 4 * one}
