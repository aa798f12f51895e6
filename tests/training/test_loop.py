"""The whole loop on a tiny stand-in: resume to the bit, kills, errors, one compilation."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fake_run
import pytest

from revision_jax.checkpoint import CheckpointError
from revision_jax.config import ConfigError
from revision_jax.training import loop

REPO = Path(loop.__file__).parents[2]
EVERY = {"train__steps": 6, "train__log_every": 1, "train__checkpoint_every": 1, "train__keep_checkpoints": 9}


def run(folder, *, task=None, **changes):
    config = fake_run.make_config(**changes)
    return loop.run(config, folder, task or fake_run.make_task(config))


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run that keeps a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(folder, **EVERY)


def test_leaves_a_full_work_folder(whole):
    folder, result = whole
    assert (result.first_step, result.last_step, result.compilations) == (0, 6, 1)
    assert [row["step"] for row in rows(folder)] == list(range(1, 7))
    assert set(rows(folder)[0]) == {"step", "loss", "token_accuracy", "grad_norm", "learning_rate"}
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {str(step) for step in range(1, 7)}
    assert (folder / "config.json").exists() and list(folder.glob("events.out.tfevents.*"))


@pytest.mark.parametrize("step", range(1, 7))
def test_resumes_to_the_bit_from_every_step(whole, tmp_path, step):
    folder, expected = whole
    shutil.copytree(folder, tmp_path / "run")
    for later in range(step + 1, 7):
        shutil.rmtree(tmp_path / "run/checkpoints" / str(later))
    result = run(tmp_path / "run", **EVERY)
    assert (result.first_step, result.last_step) == (step, 6)
    assert result.compilations == (1 if step < 6 else 0)
    assert (tmp_path / "run/metrics.jsonl").read_text() == (folder / "metrics.jsonl").read_text()
    same = lambda model: model.llm.layers.lora_b[...].tobytes()
    assert same(result.model) == same(expected.model)


def test_kill_9_then_the_same_command(tmp_path):
    """The killed process is another one; its run is finished here. 7 lies between checkpoint 4 and log 8."""
    command = [sys.executable, fake_run.__file__, str(tmp_path / "killed"), "die=7"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(REPO)}, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == -9, done.stderr
    assert [row["step"] for row in rows(tmp_path / "killed")][-1] in (4, 6)
    assert run(tmp_path / "killed").first_step in (0, 4)  # 0 if the background write was not through
    run(tmp_path / "whole")
    assert (tmp_path / "killed/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_how_often_it_logs_and_saves_does_not_change_the_losses(whole, tmp_path):
    run(tmp_path / "run", train__steps=6, train__log_every=2, train__checkpoint_every=4)
    assert (tmp_path / "run/metrics.jsonl").read_text() == (whole[0] / "metrics.jsonl").read_text()
    assert {p.name for p in (tmp_path / "run/checkpoints").iterdir()} == {"4", "6"}


def test_a_finished_run_has_nothing_to_do(tmp_path):
    run(tmp_path / "run", train__steps=2)
    result = run(tmp_path / "run", train__steps=2)
    assert (result.first_step, result.last_step, result.compilations) == (2, 2, 0)


def test_another_config_is_refused_before_anything_runs(whole):
    with pytest.raises(ConfigError, match=r"train.log_every: 1 there, 2 now"):
        run(whole[0])


def test_other_frozen_files_are_refused(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    task = fake_run.make_task(fake_run.make_config(**EVERY))
    task = dataclasses.replace(task, base={"llm": {"path": "somewhere/llm", "sha256": "f" * 64}})
    with pytest.raises(CheckpointError, match="llm: trained on somewhere/llm"):
        run(tmp_path / "run", task=task, **EVERY)


def test_a_non_finite_loss_names_step_and_records(tmp_path):
    config = fake_run.make_config(train__steps=8, train__log_every=4, train__checkpoint_every=4)
    batches = [batch["record_id"].tolist() for batch in take(fake_run.make_task(config).batches, 8)]
    bad = batches[5][0]
    step = next(i for i, ids in enumerate(batches, 1) if bad in ids)
    with pytest.raises(loop.NonFiniteLoss) as error:
        loop.run(config, tmp_path / "run", fake_run.make_task(config, bad_record=bad))
    assert f"step {step}: loss is nan" in str(error.value)
    assert all(f"query {index}" in str(error.value) for index in batches[step - 1])
    # What was finite is in the log, and no broken state was saved.
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, step))
    saved = {int(p.name) for p in (tmp_path / "run/checkpoints").iterdir()}
    assert all(number < step for number in saved)


def take(dataset, count):
    iterator = iter(dataset)
    return [next(iterator) for _ in range(count)]


def test_epochs_are_counted_in_batches(tmp_path):
    result = run(tmp_path / "run", train__steps=0, train__epochs=2)  # 20 records, batches of 4
    assert result.last_step == 10


def test_data_that_ends_is_an_error():
    with pytest.raises(RuntimeError, match="the data ended before step 3"):
        loop.next_batch(iter([]), 3)


def test_the_host_waits_only_where_it_logs(tmp_path, monkeypatch):
    fetched = []
    get = loop.jax.device_get
    monkeypatch.setattr(loop.jax, "device_get", lambda values: fetched.append(len(values)) or get(values))
    run(tmp_path / "run", train__log_every=5, train__checkpoint_every=10)
    assert fetched == [5, 5, 2]
