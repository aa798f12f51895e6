"""Where a run is watched: the same numbers in every tracker; one that is not installed is refused."""

import dataclasses
import importlib.util
import sys
import types

import fake_run
import numpy as np
import pytest

from revision_jax.config import ConfigError
from revision_jax.training import loop, tracker
from revision_jax.training.examples import Example, Readers, as_picture, as_table, read_examples
from revision_jax.training.workdir import MetricsLog


class FakeRun:
    def __init__(self):
        self.logged, self.closed = [], False

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.closed = True


def test_wandb_gets_what_tensorboard_gets(tmp_path, monkeypatch):
    """A stand-in for the package: its `init` and `Run.log`, as its documentation has them."""
    run, started = FakeRun(), []
    fake = types.SimpleNamespace(init=lambda **settings: started.append(settings) or run, Html=str, Image=np.asarray)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = fake_run.make_config(track="wandb")
    for first in (0, 2):
        log = MetricsLog(tmp_path, first, config)
        log.write([{"step": first + 1, "loss": 0.5}, {"step": first + 2, "loss": 0.25}], {"step_ms": 3.0})
        log.close()
    log = MetricsLog(tmp_path, 4, config)
    log.write_validation(4, {"val_loss": 0.75})
    example = Example("query q1", "From 02 to 05.", "Not Present", 8)
    log.show(4, [example])
    log.close()
    assert run.logged[:3] == [(1, {"train/loss": 0.5}), (2, {"train/loss": 0.25}), (2, {"time/step_ms": 3.0})]
    assert run.logged[-3] == (4, {"val/loss": 0.75}) and run.closed
    (_, text), (_, picture) = run.logged[-2:]
    assert "Not Present" in text["val/answers"] and picture["val/timelines"].shape[2] == 3
    assert len({settings["id"] for settings in started}) == 1 and started[0]["resume"] == "allow"
    assert started[0]["config"]["train"]["batch_size"] == config.train.batch_size
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_one_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"track is 'wandb', and that package is not installed; pip install wandb"):
        tracker.check_tracker("wandb")
    tracker.check_tracker("tensorboard")


READERS = Readers([lambda record: f"row | {record}"], lambda tokens: "".join(chr(token) for token in tokens), end=0)


def encoded(answer, length=24):
    """(tokens, mask) of a question of 3 tokens and an answer."""
    tokens = np.zeros(length, np.int32)
    tokens[: 3 + len(answer)] = [ord(c) for c in "???" + answer]
    return tokens, (np.arange(length) >= 3) & (np.arange(length) <= 3 + len(answer))


@pytest.mark.parametrize(
    "video, answers, intervals",
    [
        ((1, 8, 4), ("From 02 to 05.", "From 07 to 07."), ((2, 6), (7, 8))),
        ((1, 5, 2, 4), ("From 2 to 5.", "From 5 to 2."), ((2, 5), None)),
        ((1, 5, 2, 4), ("In video 4.", "From 02 to 05."), ((4, 5), None)),
        ((1, 1, 2, 4), ("Yes.", "No."), ((0, 1), None)),
    ],
)
def test_answers_are_read_as_intervals_of_frames_or_windows(video, answers, intervals):
    (right, mask), (told, _) = map(encoded, answers)
    batch = {"video": np.zeros(video), "tokens": right[None], "loss_mask": mask[None], "record_id": np.array([7])}
    (example,) = read_examples(READERS, 0, batch, told[None])
    assert (example.target, example.answer) == answers and example.bars[2:] == intervals
    several = batch | {name: batch[name][:, None].repeat(2, 1) for name in ("tokens", "loss_mask")}
    assert read_examples(READERS, 0, several, told[None, None].repeat(2, 1)) == [example]
    assert r"| row \| 7 |" in as_table([example])


def test_a_picture_shows_both_answers():
    same = Example("", "From 02 to 05.", "From 02 to 05.", 8)
    other = Example("", "From 02 to 05.", "costs $5 {and", 8)
    pictures = [as_picture([one, one]) for one in (same, other)]
    blue = [np.all(np.abs(picture.astype(int) - (31, 95, 153)) < 30, axis=-1).sum() for picture in pictures]
    assert pictures[0].dtype == np.uint8 and blue[0] > 20 * max(blue[1], 1)


def test_a_training_shows_answers_that_are_its_own(tmp_path, monkeypatch):
    """Of the stand-in, whose right answers repeat the question's token: token by token what a loop over it gives."""
    shown = []
    monkeypatch.setattr(MetricsLog, "show", lambda self, step, examples: shown.append((step, examples)))
    config = fake_run.make_config(train__steps=4, train__eval_every=2, train__learning_rate=0.3)
    readers = Readers([str, str], lambda tokens: " ".join(map(str, tokens)), end=-1)
    task = dataclasses.replace(fake_run.make_task(config), readers=readers)
    trained = loop.run(config, tmp_path, task)
    assert [step for step, _ in shown] == [2, 4] and len(shown[-1][1]) == 8
    batch, rows = dict(task.validation[1][0]), []
    for row in range(4):
        tokens, first = batch["tokens"][row].copy(), int(batch["loss_mask"][row].argmax())
        for place in range(first, len(tokens)):
            logits = trained.model(task.prefix, batch["video"][row : row + 1], tokens[None])
            tokens[place] = logits[0, place].argmax()
        rows.append(" ".join(map(str, tokens[first:])))
    assert [one.answer for one in shown[-1][1][4:]] == rows
    assert {one.about for one in shown[-1][1]} == {
        str(record) for data in task.validation for record in data[0]["record_id"]
    }
