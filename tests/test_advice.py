"""What a message recommends is done, and works."""

import json
import re
import shutil

import pytest

from revision_jax import config as configs
from revision_jax import evaluate, prepare, train


@pytest.fixture
def gaps(trained_run, tmp_path):
    """A copy of the run's splits; a query of `test` and of `train` ends after its video."""
    for split, directory in trained_run.directories.items():
        copy = shutil.copytree(directory, tmp_path / "data" / split)
        lines = (copy / "queries.jsonl").read_text().split("\n")
        row = json.loads(lines[0])
        row["moments"] = [[0.0, 9999.0]]
        (copy / "queries.jsonl").write_text("\n".join([json.dumps(row), *lines[1:]]))
    return tmp_path / "data"


def recommended(err, verb):
    """The flag that a message names for a verb."""
    return re.search(rf"(--\S+)\s+\(`{verb}`\)", err)[1]


def test_gaps_of_an_evaluation_are_dropped_as_its_message_says(trained_run, gaps, tmp_path, capsys):
    run = shutil.copytree(trained_run.workdir, tmp_path / "run")
    argv = ["--workdir", str(run), "--data", str(gaps / "test"), "--out", "other"]
    assert evaluate.main(argv) == 2
    err = capsys.readouterr().err
    assert "the data has gaps" in err and recommended(err, "evaluate") == "--data.faults=drop"
    assert evaluate.main([*argv, recommended(err, "evaluate")]) == 0
    scored = json.loads((run / "other/metrics_data-test.json").read_text())
    assert scored["queries"] == trained_run.metrics["queries"] - 1
    assert prepare.main(["check", "--fast", str(gaps / "test")]) == 1  # the other thing it recommends


def test_gaps_of_a_training_are_dropped_as_its_message_says(trained_run, gaps, tmp_path, capsys):
    changed = configs.differences(configs.load(), trained_run.config)
    flags = [f"--config.{key}={value}" for key, (_, value) in changed.items() if key != "data.dir"]
    argv = ["--workdir", str(tmp_path / "run"), *flags, f"--config.data.dir={gaps}", "--config.data.name=folder"]
    argv.append("--config.eval.after_training=false")
    assert train.main(argv) == 2
    assert train.main([*argv, recommended(capsys.readouterr().err, "train")]) == 0


def test_other_fields_of_the_data_cannot_be_changed_after_training(trained_run, capsys):
    for key in ("fps", "faultss", "dir"):
        assert evaluate.main(["--workdir", str(trained_run.workdir), f"--data.{key}=2"]) == 2
        assert f"--data.{key} has no effect on an evaluation: of data.* only data.faults" in capsys.readouterr().err
