"""The train verb: help, errors, and what it says of missing files. The whole run is tested with evaluation."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from revision_jax import train


def test_help_teaches_and_is_quick(tmp_path):
    start = time.perf_counter()
    code = "import sys; from revision_jax.train import main\n"
    code += "try: main(['--help'])\nfinally: print('jax' in sys.modules, 'transformers' in sys.modules)"
    env = {"PYTHONPATH": str(Path(train.__file__).parents[1]), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("False False\n")
    for word in ("Examples:", "--workdir", "vidchapters", "learning_rate=", "resumes", "report.html"):
        assert word in done.stdout
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("argv, message", [
    (["--config.train.step=3"], "error: unknown config key 'train.step'; did you mean train.steps"),
    (["--config", "nothing.py"], "error: no config file at nothing.py; built-in configs are"),
    (["--config.mesh.data=7"], "do not fit"),
])
def test_errors_are_one_line_and_exit_code_2(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("revision_jax.training.datasets.check_files", lambda config: None)
    assert train.main([*argv, "--workdir", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_7b_preset_lists_all_that_is_missing(capsys, tmp_path):
    argv = ["--config", "configs/stage1.py:mad", "--config.data.dir", str(tmp_path), "--workdir", str(tmp_path / "r")]
    assert train.main(argv) == 2
    text = capsys.readouterr().err
    for key in ("base.llm: not given", "base.clip: not given", "base.projector: not given", "data.dir: no train"):
        assert key in text
    assert not (tmp_path / "r").exists()


def test_the_default_work_folder_names_config_and_preset():
    assert train.default_workdir("configs/stage1.py") == Path("runs/stage1-tiny")
    assert train.default_workdir("configs/stage1.py:mad") == Path("runs/stage1-mad")


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="unknown config key"):
        train.main(["--debug", "--config.x=1"])
