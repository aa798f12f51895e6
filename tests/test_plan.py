"""The plan verb: a table and a JSON line a step, one line for a mistake."""

import dataclasses
import json

import jax
import pytest

from revision_jax import plan as verb
from revision_jax.parallel.topology import Topology
from revision_jax.planning.rates import Rates
from revision_jax.planning.recipe import STEPS, configs_of

TINY = ["--config", "configs/stage1.py"]
SIZES = ["--train", "1,2,3", "--val", "1,2,3", "--test", "1,2,3"]
TACOS = ["--config", "configs/stage1.py:tacos", *SIZES]


def lines(capsys) -> tuple[list[dict], str]:
    printed = capsys.readouterr().out
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")], printed


def test_every_step_of_the_embedded_recipe(capsys, tmp_path):
    assert verb.main([*TINY, "--cpu", "56", "--out", str(tmp_path / "plan.jsonl")]) == 0
    steps, printed = lines(capsys)
    assert [step["name"] for step in steps] == list(STEPS)
    assert [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()] == steps
    assert "configs/stage1.py on CPU" in printed and "together" in printed and "computed, not measured" in printed
    assert "train: 8 videos, 8 h, 668 queries (drawn)" in printed
    by_name = {step["name"]: step for step in steps}
    # 400 steps of 16.45 GFLOP at 56 GFLOP/s, and 20 s to start (docs/benchmarks.md: 294 ms a step).
    assert by_name["dense"]["hours"] == pytest.approx((400 * 16.45 / 56 + 20) / 3600, rel=0.01)
    assert by_name["prepare"]["bound"] == "start" and by_name["dense"]["bound"] == "arithmetic"


def test_chosen_steps_on_gpus_with_sizes_of_ones_own(capsys):
    given = ["--gpus", "8xH100", "--train", "10,20,300", "--steps", "export,prepare", "--source", "videos"]
    assert verb.main(["--config", "configs/stage1.py:tacos", *given, "--val", "1,2,3", "--test", "1,2,3"]) == 0
    steps, printed = lines(capsys)
    assert [step["name"] for step in steps] == ["prepare", "export"]
    assert "train: 10 videos, 20 h, 300 queries (given)" in printed and "24 h of videos" in printed


def test_a_stage_without_a_config_is_told(capsys, caplog):
    assert verb.main([*TACOS, "--gpus", "H100", "--steps", "sparse,export"]) == 0
    assert "sparse: no config of this preset" in caplog.text
    assert [step["name"] for step in lines(capsys)[0]] == ["export"]


def test_fields_that_all_stages_share():
    found = configs_of("configs/stage1.py:mad", {"mesh.fsdp": "8", "mesh.data": "1", "train.batch_size": "64"})
    assert [config.mesh.fsdp for config in found.values()] == [8] * 4
    assert {stage: config.train.batch_size for stage, config in found.items()} == {
        "align": 128, "dense": 64, "sparse": 32, "long": 8,
    }  # fmt: skip
    assert found["align"].data.name == "lcs"


def test_compiled_memory_takes_the_place_of_counted(capsys, monkeypatch, caplog):
    monkeypatch.setattr(Topology, "devices", lambda self: jax.devices()[: self.num_chips])
    given = [*TINY, "--topology", "v5e-1", "--steps", "dense", "--config.train.batch_size=4"]
    assert verb.main(given) == 0 and verb.main([*given, "--compile"]) == 0
    (counted, compiled), _ = lines(capsys)
    assert compiled["note"] == "400 steps, compiled" and counted["note"] == "400 steps"
    assert counted["device_gib"] != compiled["device_gib"] > 0
    assert compiled["seconds"]["arithmetic"] == counted["seconds"]["arithmetic"]
    assert "compiling dense for v5e-1: minutes" in caplog.text


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--gpus", "8xB17"], "--gpus is '8xB17'; expected a number and one of H100"),
        (["--topology", "v9-1"], "unknown topology 'v9-1'"),
        (["--gpus", "H100", "--compile"], "--compile needs --topology"),
        (["--gpus", "H100", "--steps", "dence"], "--steps names 'dence'; expected some of prepare, align"),
        (["--gpus", "H100", "--steps", "sparse", *TACOS], "nothing to plan: configs/stage1.py:tacos has no config of"),
        (["--gpus", "H100", "--test", "1,2"], "--test is '1,2'; expected VIDEOS,HOURS,QUERIES"),
        (["--gpus", "H100", "--read_gbs", "0"], "--read_gbs is 0; expected a number above 0"),
        (["--gpus", "H100", "--config", "configs/stage1.py:msrvtt"], "data.groups is 'videos'; expected 'windows'"),
        (["--gpus", "3xH100", "--config.mesh.data=2", "--steps", "dense"], "do not fit the 3 chips of 3xH100"),
    ],
)
def test_mistakes_are_one_line(arguments, told, capsys):
    assert verb.main([*TINY, *arguments]) == 2
    assert told in capsys.readouterr().err


def test_help_names_the_source_of_every_assumption(capsys):
    with pytest.raises(SystemExit):
        verb.main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(Rates):
        assert f"--{field.name} X" in printed and field.metadata["source"] in printed
