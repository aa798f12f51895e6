"""The whole loop on a tiny stand-in: resume to the bit, kills, errors, one compilation."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fake_run
import jax
import numpy as np
import pytest
from read_events import read_events

from revision_jax.checkpoint import CheckpointError, Checkpoints
from revision_jax.checkpoint_record import Meta
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
    assert result.compilations == 0 and result.batch_shapes == (1 if step < 6 else 0)  # `whole` compiled the step
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
    with pytest.raises(ConfigError, match=r"train.learning_rate: 0.03 there, 0.1 now"):
        run(whole[0], **EVERY | {"train__learning_rate": 0.1})


# ------------------------------------------------------------------------------------------- changed on resume
@pytest.mark.parametrize(
    "changes",
    [
        {"model__remat": "full"},
        {"search__beam": 4, "search__depth": 3, "search__keep": (0.5, 0.5)},
        {"eval__split": "val", "eval__max_rows": 4},
        {"train__log_every": 3, "train__checkpoint_every": 3, "train__keep_checkpoints": 1, "data__prefetch": 2},
        {"train__eval_every": 2},
    ],
)
def test_what_does_not_change_the_result_may_change_on_resume(whole, tmp_path, changes, caplog):
    folder, expected = whole
    half(folder, tmp_path / "run")
    with caplog.at_level("INFO", "revision_jax"):
        result = run(tmp_path / "run", **EVERY | changes)
    assert (result.first_step, result.last_step) == (3, 6)
    assert [row for row in rows(tmp_path / "run") if "loss" in row] == rows(folder)
    np.testing.assert_array_equal(lora_b(result), lora_b(expected))
    [told] = [text for text in caplog.messages if text.startswith("goes on with ")]
    assert all(key.replace("__", ".") in told for key in changes)


def test_the_batch_may_be_accumulated_from_now_on(whole, tmp_path):
    folder, _ = whole
    half(folder, tmp_path / "run")
    result = run(tmp_path / "run", **EVERY | {"train__accumulate": 2, "lora__dropout": 0.1})
    assert (result.first_step, result.last_step) == (3, 6)
    assert rows(tmp_path / "run")[:3] == rows(folder)[:3]
    # Dropout is drawn for each part; without it the sums are the same up to rounding.
    sure = {"lora__dropout": 0.0}
    run(tmp_path / "sure", **EVERY | sure)
    half(tmp_path / "sure", tmp_path / "parts")
    run(tmp_path / "parts", **EVERY | sure | {"train__accumulate": 2})
    for one, other in zip(rows(tmp_path / "sure"), rows(tmp_path / "parts"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_before_the_first_checkpoint_anything_may_change(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(RuntimeError, match="no more"):
        run(folder, task=dataclasses.replace(fake_run.make_task(fake_run.make_config()), batches=Broken()))
    assert (folder / "config.json").exists()
    result = run(folder, train__learning_rate=1e-3, seed=3, train__steps=4)
    assert (result.first_step, result.last_step) == (0, 4)
    assert json.loads((folder / "config.json").read_text())["seed"] == 3


class Broken:
    def __iter__(self):
        raise RuntimeError("no more")


def half(folder, other):
    """The work folder of a run of 6 steps as it was after the third."""
    shutil.copytree(folder, other)
    for step in (4, 5, 6):
        shutil.rmtree(other / "checkpoints" / str(step))


def lora_b(result):
    return np.asarray(result.model.llm.layers.lora_b[...])


# ------------------------------------------------------------------------------------------- validation
VALIDATED = EVERY | {"train__eval_every": 2}


def test_validation_has_its_own_lines_everywhere(whole, tmp_path, capsys):
    result = run(tmp_path / "run", **VALIDATED)
    held_out = [row for row in rows(tmp_path / "run") if "val_loss" in row]
    assert [row["step"] for row in held_out] == [2, 4, 6]
    # metrics.jsonl: the training's lines are the same as without.
    assert [row for row in rows(tmp_path / "run") if "loss" in row] == rows(whole[0])
    np.testing.assert_array_equal(lora_b(result), lora_b(whole[1]))
    # On the terminal.
    printed = [line for line in capsys.readouterr().err.splitlines() if "validation" in line]
    assert printed == [
        f"step {row['step']}/6  validation loss {row['val_loss']:.4f}  accuracy {row['val_accuracy']:.3f}"
        for row in held_out
    ]
    # TensorBoard.
    for key in ("loss", "accuracy"):
        found = scalars(tmp_path / "run")[f"val/{key}"]
        assert found == {row["step"]: pytest.approx(row[f"val_{key}"], rel=1e-6) for row in held_out}
    assert set(scalars(tmp_path / "run")["train/loss"]) == set(range(1, 7))


def test_validation_is_the_plain_loss_of_held_out_rows_without_dropout(tmp_path):
    config = fake_run.make_config(**VALIDATED)
    task = fake_run.make_task(config)
    result = loop.run(config, tmp_path / "run", task)
    losses, right, count = 0.0, 0, 0
    for batches in task.validation:
        for batch in (batches[number] for number in range(len(batches))):
            logits = np.asarray(result.model(task.prefix, batch["video"], batch["tokens"]), np.float64)
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            mask, tokens = batch["loss_mask"], batch["tokens"]
            losses -= np.take_along_axis(log_p, tokens[..., None], -1)[..., 0][mask].sum()
            right, count = right + int((logits.argmax(-1) == tokens)[mask].sum()), count + int(mask.sum())
    last = rows(tmp_path / "run")[-1]
    assert last["val_loss"] == pytest.approx(losses / count, rel=1e-5)
    assert last["val_accuracy"] == pytest.approx(right / count)


def test_a_validation_reads_a_bounded_number_of_rows(tmp_path, monkeypatch):
    seen, put = [], loop.put_batch
    monkeypatch.setattr(loop, "put_batch", lambda batch, *args: seen.append(len(batch["tokens"])) or put(batch, *args))
    for most, batches in ((1, 1), (8, 2), (9, 2), (2000, 5)):  # 20 rows of each of two kinds, batches of 4
        seen.clear()
        run(tmp_path / str(most), train__steps=2, train__eval_every=2, eval__max_rows=most)
        assert len(seen) == 2 + 2 * batches  # two updates


def test_a_validation_comes_at_the_end_too(tmp_path):
    run(tmp_path / "run", train__steps=6, train__eval_every=4)
    assert [row["step"] for row in rows(tmp_path / "run") if "val_loss" in row] == [4, 6]


def test_resumes_to_the_bit_with_validation(tmp_path):
    run(tmp_path / "whole", **VALIDATED)
    half(tmp_path / "whole", tmp_path / "run")
    run(tmp_path / "run", **VALIDATED)
    assert (tmp_path / "run/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def scalars(folder):
    """Tag -> {step: value} of the TensorBoard events in a folder."""
    found = {}
    for step, value in read_events(folder):
        found.setdefault(value.tag, {})[step] = value.simple_value
    return found


# ------------------------------------------------------------------------------------------- the best step
BEST = VALIDATED | {"train__keep_best": True, "train__keep_checkpoints": 1}


def validate_as(monkeypatch, losses):
    """Validations find these losses, by step."""
    find = lambda session, trainable: {"val_loss": losses[len(seen)], "val_accuracy": 0.0}
    seen = []
    monkeypatch.setattr(loop, "validate", lambda *args: (find(*args), seen.append(1))[0])


def test_the_best_step_is_kept_and_its_weights_are_returned(whole, tmp_path, monkeypatch, caplog):
    validate_as(monkeypatch, [0.5, 0.2, 0.9])  # of steps 2, 4 and 6
    with caplog.at_level("INFO", "revision_jax"):
        result = run(tmp_path / "run", **BEST)
    assert "the weights of step 4 have the lowest validation loss" in caplog.messages
    assert result.last_step == 6 and kept(tmp_path / "run") == [4, 6]
    assert np.any(lora_b(whole[1]) != lora_b(result))
    np.testing.assert_array_equal(saved_lora_b(whole[0], 4, tmp_path / "four"), lora_b(result))
    # Again: nothing is trained, and the best weights are the same.
    again = run(tmp_path / "run", **BEST)
    assert (again.first_step, again.compilations) == (6, 0)
    np.testing.assert_array_equal(lora_b(again), lora_b(result))


def test_the_best_step_survives_a_resume(tmp_path, monkeypatch):
    validate_as(monkeypatch, [0.5, 0.2, 0.9])
    whole = run(tmp_path / "whole", **BEST | {"train__keep_checkpoints": 9})
    half(tmp_path / "whole", tmp_path / "run")
    validate_as(monkeypatch, [0.2, 0.9])
    result = run(tmp_path / "run", **BEST)
    assert result.first_step == 3 and kept(tmp_path / "run") == [4, 6]
    np.testing.assert_array_equal(lora_b(result), lora_b(whole))
    # The best one lies before the resume.
    half(tmp_path / "whole", tmp_path / "early")
    validate_as(monkeypatch, [0.6, 0.9])
    run(tmp_path / "early", **BEST)
    assert kept(tmp_path / "early") == [2, 6]


def test_keep_best_from_now_on_needs_a_validated_step(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")  # finished, and never validated
    with pytest.raises(CheckpointError, match="holds no checkpoint with a validation loss"):
        run(tmp_path / "run", **BEST)
    half(whole[0], tmp_path / "half")
    assert run(tmp_path / "half", **BEST).last_step == 6
    assert set(kept(tmp_path / "half")) <= {4, 6}


def saved_lora_b(folder, step, place):
    """Of a step of the run `whole`."""
    shutil.copytree(folder, place)
    for later in range(step + 1, 7):
        shutil.rmtree(place / "checkpoints" / str(later))
    config = fake_run.make_config(**EVERY)
    shapes = {path: jax.ShapeDtypeStruct(shape, "float32") for path, shape in fake_run.TRAINED.items()}
    meta = Meta(config.to_dict(), fake_run.BASE)
    with Checkpoints(place / "checkpoints", meta, read_only=True) as checkpoints:
        return np.asarray(checkpoints.restore_params(shapes)[1]["llm/layers/lora_b"])


def kept(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


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


def poisoned_run(folder, **changes):
    """A run one of whose 20 records is not finite, from a fresh task as each start makes it."""
    config = fake_run.make_config(train__steps=9, train__log_every=1, train__checkpoint_every=1, **changes)
    return loop.run(config, folder, fake_run.make_task(config, bad_record=3))


def test_a_run_goes_on_without_nonfinite_steps_as_its_message_says(tmp_path, caplog):
    with pytest.raises(loop.NonFiniteLoss) as error:
        poisoned_run(tmp_path / "run")
    told = str(error.value)
    assert "--config.train.skip_nonfinite=10 goes on from the last checkpoint" in told
    assert "may also change: mesh., search., eval." in told and "train.learning_rate, needs another --workdir" in told
    stopped = int(told.split(":")[0].removeprefix("step "))
    result = poisoned_run(tmp_path / "run", train__skip_nonfinite=10)
    assert (result.first_step, result.last_step) == (stopped - 1, 9)
    lines = rows(tmp_path / "run")
    skipped = [row for row in lines if "loss" not in row]
    assert skipped[0] == {"step": stopped, "skipped": 1} and len(lines) == 9
    assert skipped == [{"step": row["step"], "skipped": number} for number, row in enumerate(skipped, 1)]
    assert f"step {stopped}: loss is nan" in caplog.text and "left out, 1 of at most 10" in caplog.text
    assert np.isfinite(lora_b(result)).all()
    # The schedule of the learning rate goes on with the updates that were done.
    rates = [row["learning_rate"] for row in lines if "loss" in row]
    run(tmp_path / "clean", train__steps=9)
    assert rates == [row["learning_rate"] for row in rows(tmp_path / "clean")][: len(rates)]


def test_more_nonfinite_steps_than_may_be_left_out_stop_the_run(tmp_path):
    config = fake_run.make_config(train__steps=12, train__skip_nonfinite=1, train__log_every=1)
    with pytest.raises(loop.NonFiniteLoss, match="skip_nonfinite=10 goes on"):
        loop.run(config, tmp_path / "run", fake_run.make_task(config, bad_record=3))
    assert [row["skipped"] for row in rows(tmp_path / "run") if "skipped" in row] == [1]


def test_without_a_nonfinite_step_nothing_differs(whole, tmp_path):
    run(tmp_path / "run", **EVERY, train__skip_nonfinite=3)
    # Two programs: what they print is the same to the rounding of the last place.
    for guarded, plain in zip(rows(tmp_path / "run"), rows(whole[0]), strict=True):
        assert guarded == pytest.approx(plain, rel=1e-6)


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
