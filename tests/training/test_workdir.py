"""The work folder: one config each, and a metrics file without a seam."""

import json

import fake_run
import numpy as np
import pytest

from revision_jax.config import ConfigError
from revision_jax.training.workdir import MetricsLog, check_workdir, open_workdir


def test_the_same_config_enters_again_another_is_refused(tmp_path):
    folder = tmp_path / "a" / "run"
    assert open_workdir(folder, fake_run.make_config()) == folder
    assert json.loads((folder / "config.json").read_text())["train"]["batch_size"] == fake_run.B
    open_workdir(folder, fake_run.make_config())
    with pytest.raises(ConfigError) as error:
        open_workdir(folder, fake_run.make_config(seed=7, train__batch_size=8))
    assert "seed: 0 there, 7 now" in str(error.value)
    assert "train.batch_size: 4 there, 8 now" in str(error.value)
    check_workdir(tmp_path / "new", fake_run.make_config())
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write the work folder"):
        open_workdir(tmp_path / "file" / "run", fake_run.make_config())


def row(step, loss=None):
    return {"step": step, "loss": float(np.float32(loss if loss is not None else step / 3))}


def test_lines_after_the_restored_step_are_dropped(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write([row(1), row(2)], {"windows_per_s": 1.0})
    log.write([row(3), row(4)], {})
    log.close()
    whole = (tmp_path / "metrics.jsonl").read_text()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # a kill in the middle of a line
    log = MetricsLog(tmp_path, 2)
    log.write([row(3), row(4)], {})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == whole


def test_float32_survives_to_the_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    log = MetricsLog(tmp_path, 0)
    log.write([row(i + 1, v) for i, v in enumerate(values)], {})
    log.close()
    read = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    np.testing.assert_array_equal(np.array(read, np.float32), values)
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_no_rows_no_timings(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write([], {"windows_per_s": 1.0})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""
