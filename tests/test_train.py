"""The train verb: errors, missing files, and a whole run on tiny random parts."""

import json
import shutil
from pathlib import Path

import pytest

from revision_jax import config as configs
from revision_jax import train


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--config.train.step=3"], "error: unknown config key 'train.step'; did you mean train.steps"),
        (["--config", "nothing.py"], "error: no config file at nothing.py; built-in configs are"),
        (["--config.mesh.data=7"], "do not fit"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("revision_jax.runs.training.check_files", lambda *_: None)
    assert train.main([*argv, "--workdir", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_7b_preset_lists_all_that_is_missing(capsys, tmp_path):
    argv = ["--config", "configs/stage1.py:mad", "--config.data.dir", str(tmp_path), "--workdir", str(tmp_path / "r")]
    assert train.main(argv) == 2
    text = capsys.readouterr().err
    for key in ("base.llm: not given", "base.encoder: not given", "base.projector: not given", "data.dir: no train"):
        assert key in text
    assert not (tmp_path / "r").exists()


def test_the_default_work_folder_names_config_and_preset():
    assert train.default_workdir("configs/stage1.py") == Path("runs/stage1-tiny")
    assert train.default_workdir("configs/stage1.py:mad") == Path("runs/stage1-mad")


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="unknown config key"):
        train.main(["--debug", "--config.x=1"])


@pytest.fixture
def same_command(trained_run, tmp_path):
    """The finished run's folder, copied, and the flags that made it."""
    folder = shutil.copytree(trained_run.workdir, tmp_path / "run")
    changed = configs.differences(configs.load(), trained_run.config)
    flags = [f"--config.{key}={value}" for key, (_, value) in changed.items()]
    return folder, ["--workdir", str(folder), *flags]


def test_a_run_ends_with_an_evaluation(trained_run):
    folder, metrics = trained_run.workdir, trained_run.metrics
    assert json.loads((folder / "eval/metrics.json").read_text()) == metrics
    assert metrics["compilations"]["train_step"] == {"programs": 1, "shapes": 1}
    search = metrics["compilations"]["search"]
    assert search["programs"] == search["shapes"] > 0
    assert metrics["before"] and metrics["methods"].keys() >= metrics["before"].keys()
    assert (folder / "eval/report.html").exists() and (folder / "eval/predictions.jsonl").exists()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4


def test_the_same_command_again_trains_nothing_and_keeps_the_counters(trained_run, same_command):
    folder, argv = same_command
    assert train.main(argv) == 0
    assert (folder / "metrics.jsonl").read_text() == (trained_run.workdir / "metrics.jsonl").read_text()
    again = json.loads((folder / "eval/metrics.json").read_text())
    assert again["compilations"]["train_step"] == {"programs": 1, "shapes": 1}
    assert again["methods"].keys() == trained_run.metrics["methods"].keys()


def test_another_config_is_refused_before_the_data(same_command, capsys, monkeypatch):
    _, argv = same_command
    monkeypatch.setattr("revision_jax.runs.training.prepare_data", lambda *a, **k: pytest.fail("too late"))
    assert train.main([*argv, "--config.seed=5"]) == 2
    assert "seed: 0 there, 5 now" in capsys.readouterr().err
