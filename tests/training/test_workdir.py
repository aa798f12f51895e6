"""The work folder: one config each, and a metrics file without a seam."""

import json

import fake_run
import numpy as np
import pytest

from revision_jax import config as configs
from revision_jax.config import ConfigError
from revision_jax.training.workdir import FREE, MetricsLog, check_workdir, open_workdir


def trained(folder):
    """Gives a work folder a checkpoint: from now on it belongs to its config."""
    (folder / "checkpoints/4").mkdir(parents=True)
    return folder


def test_the_same_config_enters_again_another_is_refused(tmp_path):
    folder = tmp_path / "a" / "run"
    assert open_workdir(folder, fake_run.make_config()) == folder
    assert json.loads((folder / "config.json").read_text())["train"]["batch_size"] == fake_run.B
    trained(folder)
    before = (folder / "config.json").read_text()
    open_workdir(folder, fake_run.make_config())
    with pytest.raises(ConfigError) as error:
        open_workdir(folder, fake_run.make_config(seed=7, train__batch_size=8))
    assert "seed: 0 there, 7 now" in str(error.value)
    assert "train.batch_size: 4 there, 8 now" in str(error.value)
    assert (folder / "config.json").read_text() == before
    check_workdir(tmp_path / "new", fake_run.make_config())
    assert not (tmp_path / "new").exists()


# A change of every field that may change; a name that ends with a dot stands for each of its fields.
FREE_CHANGES = {
    "mesh.": {"mesh.data": 1},
    "search.": {"search.beam": 2, "search.keep": (0.5, 0.5)},
    "eval.": {"eval.max_rows": 3, "eval.split": "val"},
    "model.remat": {"model.remat": "full"},
    "model.attention": {"model.attention": "xla"},
    "model.unroll": {"model.unroll": 3},
    "model.window_chunk": {"model.window_chunk": 3},
    "data.read_threads": {"data.read_threads": 2},
    "data.prefetch": {"data.prefetch": 3},
    "train.accumulate": {"train.accumulate": 2},
    "train.log_every": {"train.log_every": 1},
    "train.checkpoint_every": {"train.checkpoint_every": 2},
    "train.keep_checkpoints": {"train.keep_checkpoints": 7},
    "train.eval_every": {"train.eval_every": 4},
    "train.keep_best": {"train.keep_best": True, "train.eval_every": 4},
    "train.skip_nonfinite": {"train.skip_nonfinite": 3},
    "sparse.precision": {"sparse.precision": "highest"},
    "track": {"track": "wandb"},
}


def test_every_free_field_is_one_of_the_config():
    known = configs.flatten(configs.load())
    assert set(FREE_CHANGES) == set(FREE)
    assert all(any(key == name or key.startswith(name) for key in known) for name in FREE)


@pytest.mark.parametrize("name", FREE)
def test_what_does_not_change_the_result_may_change_and_is_told_in_one_line(tmp_path, name, caplog):
    folder = trained(open_workdir(tmp_path / "run", fake_run.make_config()))
    changes = FREE_CHANGES[name]
    config = fake_run.make_config(**{key.replace(".", "__"): value for key, value in changes.items()})
    check_workdir(folder, config)
    with caplog.at_level("INFO", "revision_jax"):
        open_workdir(folder, config)
    [line] = caplog.messages
    assert line.startswith("goes on with ")
    old = configs.flatten(fake_run.make_config())
    for key, value in changes.items():
        # As JSON has it: lists.
        plain = lambda value: list(value) if isinstance(value, tuple) else value
        assert f"{key} {plain(value)!r} (was {plain(old[key])!r})" in line
    assert configs.load_json(folder / "config.json") == config  # what an evaluation behind it reads
    caplog.clear()
    open_workdir(folder, config)
    assert not caplog.messages


def test_a_free_field_beside_another_is_refused_with_the_other_alone(tmp_path):
    folder = trained(open_workdir(tmp_path / "run", fake_run.make_config()))
    with pytest.raises(ConfigError) as error:
        check_workdir(folder, fake_run.make_config(search__beam=2, train__learning_rate=1.0))
    assert "train.learning_rate: 0.03 there, 1.0 now" in str(error.value) and "search.beam" not in str(error.value)


def test_before_the_first_checkpoint_anything_may_change(tmp_path):
    folder = open_workdir(tmp_path / "run", fake_run.make_config())
    (folder / "checkpoints/4.orbax-checkpoint-tmp-123").mkdir(parents=True)  # a write that a kill cut short
    changed = fake_run.make_config(seed=7, train__learning_rate=1.0, train__batch_size=8)
    open_workdir(folder, changed)
    assert configs.load_json(folder / "config.json") == changed


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


def test_a_validation_has_a_line_of_its_own(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write([row(1), row(2)], {})
    log.write_validation(2, {"val_loss": 0.5, "val_accuracy": 0.75})
    log.write([row(3)], {})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[2]) == {"step": 2, "val_loss": 0.5, "val_accuracy": 0.75} and len(lines) == 4
    # It belongs to its step: gone on from before it, it is dropped, from it on it is kept.
    MetricsLog(tmp_path, 2).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:3]
    MetricsLog(tmp_path, 1).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:1]
