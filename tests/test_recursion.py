"""The recursion as a person meets it: `ground` through a run of stage 2, at every depth, on any devices."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from revision_jax import evaluate, ground, load_run
from revision_jax.runs.run import Run
from tests.forced_devices import run_python


@pytest.fixture(scope="module")
def evaluated(evaluated_long, tmp_path_factory):
    """A copy of the long run, evaluated, and the test video with its predictions by method."""
    workdir = Path(shutil.copytree(evaluated_long[0], tmp_path_factory.mktemp("recursion") / "long"))
    run, metrics = Run.load(workdir), evaluated_long[1]
    lines = []
    for name in ("predictions.jsonl", "predictions_upper.jsonl"):
        lines += map(json.loads, (workdir / "eval" / name).read_text().splitlines())
    video = next((run.directories(["test"])["test"] / "videos").iterdir())
    rows = [row for row in lines if row.get("video_id") == video.stem and "query_id" in row]
    return workdir, metrics, video, rows


METHODS = {
    "depth1": ["--depth", "1"],  # at which the run's own policy does not search
    "depth2": ["--depth", "2", "--policy", "top_down"],
    "depth3": ["--policy", "top_down"],
    "depth3_fused": [],  # as the run's config has it
    "depth2_bottom_up": ["--depth", "2", "--policy", "bottom_up"],
    "depth1_retrieve_then_ground": ["--depth", "1", "--policy", "retrieve_then_ground"],
}


@pytest.mark.parametrize("method", METHODS)
def test_ground_gives_what_evaluate_scored(method, evaluated, capfd):
    workdir, metrics, video, rows = evaluated
    rows = [row for row in rows if row["method"] == method]
    sentences = [row["sentence"] for row in rows]
    arguments = [str(video), *sentences, "--workdir", str(workdir), "--json", "--top", "50", *METHODS[method]]
    assert ground.main(arguments) == 0
    found = json.loads(capfd.readouterr().out)
    threshold = metrics["calibration"][method]["threshold"]
    for row, query in zip(rows, found["videos"][0]["queries"], strict=True):
        expected = [moment for moment in row["moments"] if moment[2] >= threshold]
        moments = [[m["start_s"], m["end_s"], m["confidence"]] for m in query["moments"]]
        assert query["threshold"] == threshold and query["present"] == bool(expected)
        np.testing.assert_allclose(np.reshape(moments, (-1, 3)), np.reshape(expected, (-1, 3)), rtol=1e-3, atol=1e-3)
    depth = int(method[5])
    assert found["search"]["depth"] == depth
    levels = [[level["level"] for level in query["levels"]] for query in found["videos"][0]["queries"]]
    alone = ["similarity"] if "retrieve" in method else []
    expected = {1: alone, 2: ["groups of 4"], 3: ["groups of 5", "groups of 4"]}[depth]
    assert all(names == expected for names in levels)


def test_seconds_are_told_of_what_is_served_and_of_what_does_all_windows(evaluated):
    """Others took answers of windows that another had asked, unless `--methods` names them; scores are the same."""
    workdir, metrics, _, _ = evaluated
    rows = metrics["methods"]
    told = {name for name, row in rows.items() if row["measured"]["seconds_per_query"] is not None}
    all_windows = {name for name, row in rows.items() if row["cost"]["frame_share"] == 100.0}
    assert told == all_windows | {"clip", "depth0", metrics["served"]} and metrics["served"] not in all_windows
    few = "depth1_retrieve_then_ground"
    assert few not in told
    command = ["--workdir", str(workdir), "--out", "eval-named", "--methods", f"{few},depth1"]
    assert evaluate.main(command) == 0
    named = json.loads((workdir / "eval-named/metrics.json").read_text())["methods"][few]
    assert named["measured"]["seconds_per_query"] > 0
    assert all(named[key] == rows[few][key] for key in ("recall", "cost", "calibration", "rejection"))


def test_keep_says_how_much_is_looked_at(evaluated, capfd):
    workdir, _, video, rows = evaluated
    shares = {}
    for keep in ("1.0,1.0", "0.5,0.2"):
        assert ground.main([str(video), rows[0]["sentence"], "--workdir", str(workdir), "--keep", keep]) == 0
        out = capfd.readouterr().out
        assert "looked at: groups of 5 kept" in out and "then groups of 4 kept" in out
        shares[keep] = int(out.split("depth 3, fused: ")[1].split(" %")[0])
    assert shares["1.0,1.0"] == 100 and shares["0.5,0.2"] < 30


def test_the_same_in_python(evaluated):
    workdir, metrics, video, rows = evaluated
    run = load_run(workdir)
    features = run.encode(video)
    for depth, method in ((1, "depth1"), (3, "depth3_fused")):
        (result,) = run.ground(features, rows[0]["sentence"], depth=depth)
        expected = next(r for r in rows if r["method"] == method and r["sentence"] == rows[0]["sentence"])
        # Of moments that are equally sure, rounding decides which comes first.
        found, wanted = sorted(result.moments.tolist()), sorted(expected["moments"])
        np.testing.assert_allclose(np.reshape(found, (-1, 3)), np.reshape(wanted, (-1, 3)), rtol=1e-3, atol=1e-3)
        assert result.threshold == metrics["calibration"][method]["threshold"]
    searches = lambda **changes: Run.load(workdir, {f"search.{name}": x for name, x in changes.items()}).config.search
    assert [searches(depth=depth).policy for depth in (0, 1, 2, 3)] == ["top_down", "top_down", "fused", "fused"]
    assert searches(depth=1, policy="retrieve_then_ground").policy == "retrieve_then_ground"
    with pytest.raises(ValueError, match=r"search\.policy 'bottom_up' does not search at depth 1"):
        run.ground(features, "a red circle", depth=1, policy="bottom_up")


def test_a_share_that_is_given_holds_for_short_videos_too(evaluated, tmp_path):
    workdir = Path(shutil.copytree(evaluated[0], tmp_path / "long"))
    config = json.loads((workdir / "config.json").read_text())
    (workdir / "config.json").write_text(json.dumps(config | {"search": config["search"] | {"least": 16}}))
    given = ({}, {"search.keep": (1.0, 0.2)}, {"search.keep": (1.0, 0.2), "search.least": 3})
    assert [Run.load(workdir, overrides).config.search.least for overrides in given] == [16, 1, 3]


def test_a_stage_that_cannot_answer_is_refused_with_the_command(chain, trained_run, capfd):
    video = str(trained_run.video)
    assert ground.main([video, "a red circle", "--workdir", str(chain.folder / "sparse")]) == 2
    err = capfd.readouterr().err
    assert "a run of stage 'sparse', which trains the sparse adapter and answers no search" in err
    assert "python -m revision_jax.train --config configs/stage1.py" in err


def test_a_missing_predecessor_is_told_with_the_command(evaluated, chain, tmp_path, capfd):
    workdir, _, video, _ = evaluated
    broken = Path(shutil.copytree(workdir, tmp_path / "long"))
    path = broken / "config.json"
    path.write_text(path.read_text().replace(str(chain.folder / "dense"), str(tmp_path / "gone")))
    assert ground.main([str(video), "a red circle", "--workdir", str(broken)]) == 2
    assert "init.dense: no trained run at" in capfd.readouterr().err


def test_the_newest_run_that_can_answer_is_used_and_named(evaluated, chain, tmp_path, monkeypatch, capfd):
    """After stages 1, 1 sparse and 2, and an align run on top."""
    workdir, _, video, rows = evaluated
    monkeypatch.chdir(tmp_path)
    names = ("dense", "long", "sparse")
    for age, (name, source) in enumerate(zip(names, (chain.folder / "dense", workdir, chain.folder / "sparse"))):
        copied = shutil.copytree(source, tmp_path / "runs" / name)
        os.utime(copied / "checkpoints", (1e9 + age, 1e9 + age))
    assert ground.main([str(video), rows[0]["sentence"], "--top", "1"]) == 0
    out, err = capfd.readouterr()
    assert "uses runs/long (stage long)" in err and "depth 3, fused" in out
    shutil.rmtree(tmp_path / "runs/long")
    assert ground.main([str(video), rows[0]["sentence"], "--top", "1"]) == 0
    assert "uses runs/dense (stage dense)" in capfd.readouterr().err


MESHES = """
import json, sys
import jax
from revision_jax.evaluation.evaluate import evaluate
from revision_jax.evaluation.options import Options
from revision_jax.runs.run import Run, load_run
workdir, video, out = sys.argv[1:4]
# Every answer is kept: an untrained model is equally sure of many, and rounding decides which of them come first.
everything = {"top_k": 500, "nms_iou": 1.0, "keep": (1.0, 1.0)}
run = load_run(workdir, {"eval.before": False} | {f"search.{key}": value for key, value in everything.items()})
evaluate(run, Options(out=out, methods=("depth2",), search=everything))
found = run.ground(video, ["a red circle moves to the left", "a blue star spins"])
print(json.dumps({"mesh": dict(run.mesh.shape), "moments": [sorted(result.moments.tolist()) for result in found]}))
"""
TRAIN = """
import sys
from revision_jax import config as configs
from revision_jax.runs.run import Run
from revision_jax.runs.splits import prepare_data
from revision_jax.runs.training import train
config = configs.load_json(sys.argv[1])
train(Run(config, sys.argv[2]), dict(prepare_data(config)))
"""


def test_trained_on_four_devices_answers_alike_on_one_and_on_four(chain, trained_run, tmp_path):
    from revision_jax import config as configs

    changes = {"search__depth": 2, "mesh__data": 2, "mesh__fsdp": 2, "train__batch_size": 4, "data__train_videos": 6}
    config = chain.config("configs/stage2.py", **changes, data__dir=str(tmp_path / "data"))
    configs.save_json(config, tmp_path / "config.json")
    workdir = tmp_path / "run"
    run_python(TRAIN, 4, tmp_path / "config.json", workdir)
    answers = {}
    for devices in (1, 4):
        out = run_python(MESHES, devices, workdir, trained_run.video, f"eval{devices}")
        answers[devices] = json.loads(out.splitlines()[-1])
    assert answers[1]["mesh"] == {"data": 1, "fsdp": 1, "tensor": 1}
    assert answers[4]["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    for one, four in zip(answers[1]["moments"], answers[4]["moments"], strict=True):
        np.testing.assert_allclose(one, four, rtol=1e-3, atol=1e-3)
    logs = [(workdir / f"eval{n}/predictions_upper.jsonl").read_text().splitlines() for n in (1, 4)]
    for a, b in zip(*(map(json.loads, lines) for lines in logs), strict=True):
        assert a.get("query_id") == b.get("query_id")
        if "moments" in a:
            np.testing.assert_allclose(sorted(a["moments"]), sorted(b["moments"]), rtol=1e-3, atol=1e-3)
