"""Damaged checkpoints and edited configs: noticed by every verb; a training goes on from the newest whole step."""

import json
import logging
import shutil

import numpy as np
import pytest

from revision_jax import config as configs
from revision_jax import evaluate, export, ground, train
from revision_jax.checkpoint import CheckpointError, Checkpoints, DamagedCheckpoint
from tests.test_checkpoint import META, new_iterator, save_steps, trees


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Checkpoints of steps 1 to 3; do not change them."""
    folder = tmp_path_factory.mktemp("sound") / "c"
    save_steps(folder, [1, 2, 3], losses={1: 3.0, 2: 2.0, 3: 1.0})
    return folder


def flip(file, bit):
    raw = bytearray(file.read_bytes())
    raw[bit // 8 % len(raw)] ^= 1 << bit % 8
    file.write_bytes(raw)


def resumed(folder):
    """The step that a training goes on from; what it restores is what was saved."""
    with Checkpoints(folder, META, keep=5) as checkpoints:
        step, params, optimizer = checkpoints.restore(*trees(0), new_iterator())
    expected = trees(step)
    np.testing.assert_array_equal(params["llm/layers/lora_a"], expected[0]["llm/layers/lora_a"])
    np.testing.assert_array_equal(optimizer[0]["mu"]["llm/layers/lora_a"], expected[1][0]["mu"]["llm/layers/lora_a"])
    assert int(optimizer[1]) == step
    return step


# ------------------------------------------------------------------------------------------------- single bits
@pytest.mark.parametrize("part", ["params", "optimizer", "iterator", "meta", "metrics"])
def test_a_flipped_bit_is_noticed_or_changes_nothing(sound, tmp_path, part):
    rng = np.random.default_rng(0)
    kept = [path for path in sorted((sound / "3" / part).rglob("*")) if path.is_file() and path.stat().st_size]
    noticed = 0
    for number in range(12):
        folder = shutil.copytree(sound, tmp_path / str(number))
        flip(folder / kept[number % len(kept)].relative_to(sound), int(rng.integers(2**20)))
        step = resumed(folder)
        assert (folder / "damaged-3").exists() == (step == 2) and step in (2, 3)
        noticed += step == 2
    assert noticed


# ------------------------------------------------------------------------------------------------- larger damage
def empty(step):
    shutil.rmtree(step)
    step.mkdir()


def truncate(step):
    file = max((path for path in (step / "params").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE = {
    "empty": empty,
    "truncated": truncate,
    **{
        f"no {part}": lambda step, part=part: shutil.rmtree(step / part) for part in ("params", "optimizer", "iterator")
    },
    "no meta": lambda step: shutil.rmtree(step / "meta"),
    "no metrics": lambda step: shutil.rmtree(step / "metrics"),
    "metrics are garbage": lambda step: (step / "metrics/metrics").write_text("{"),
    "another number in the metrics": lambda step: (step / "metrics/metrics").write_text('{"val_loss": 0.5}'),
    "meta is another": lambda step: shutil.copy(step.with_name("1") / "meta/metadata", step / "meta/metadata"),
    "meta is garbage": lambda step: (step / "meta/metadata").write_bytes(b"\xff\x00"),
    "meta is a list": lambda step: (step / "meta/metadata").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_training_goes_on_from_the_newest_whole_step(sound, tmp_path, damage, caplog):
    folder = shutil.copytree(sound, tmp_path / "c")
    DAMAGE[damage](folder / "3")
    assert resumed(folder) == 2
    assert f"{folder / '3'} is damaged" in caplog.text and f"kept as {folder / 'damaged-3'}" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "damaged-3"]
    caplog.clear()
    assert resumed(folder) == 2 and not [row for row in caplog.records if row.levelno >= logging.WARNING]
    save_steps(folder, [3])  # its number is free again
    assert resumed(folder) == 3


def test_several_damaged_steps_and_a_second_time(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "c")
    (folder / "damaged-3").mkdir()
    for step in ("2", "3"):
        truncate(folder / step)
    assert resumed(folder) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["1", "damaged-2", "damaged-3", "damaged-3-2"]


def test_where_no_step_is_whole_nothing_is_changed(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "c")
    for step in "123":
        truncate(folder / step)
    with pytest.raises(CheckpointError, match=r"No checkpoint in .* is whole; nothing was changed"):
        resumed(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]


def test_a_reader_refuses_a_damaged_step_and_moves_nothing(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "c")
    truncate(folder / "3")
    with Checkpoints(folder, META, read_only=True) as checkpoints, pytest.raises(DamagedCheckpoint, match="c/3 is dam"):
        checkpoints.restore_params(trees(0)[0])
    assert (folder / "3").exists()


def test_a_step_without_checksums_is_read_with_a_warning(sound, tmp_path, caplog):
    folder = shutil.copytree(sound, tmp_path / "c")
    meta = folder / "3/meta/metadata"
    old = json.loads(meta.read_text())
    meta.write_text(json.dumps({key: old[key] for key in ("config", "base", "params")}))
    assert resumed(folder) == 3 and "was saved without checksums" in caplog.text


# ------------------------------------------------------------------------------------------------- by the verbs
@pytest.fixture
def run(trained_run, tmp_path):
    """A copy of a finished run, and the flags that made it."""
    folder = shutil.copytree(trained_run.workdir, tmp_path / "run")
    changed = configs.differences(configs.load(), trained_run.config)
    return folder, [f"--config.{key}={value}" for key, (_, value) in changed.items()]


def verbs(trained_run, folder):
    yield lambda: ground.main([str(trained_run.video), "a star grows", "--workdir", str(folder)])
    yield lambda: evaluate.main(["--workdir", str(folder), "--out", "again"])
    out = str(folder.with_name("exported"))
    yield lambda: export.main(["--workdir", str(folder), "--out", out, "--format", "peft", "--no-check"])


def test_a_flipped_bit_of_a_run(run, trained_run, capsys):
    folder, flags = run
    bits = json.loads((folder / "checkpoints/4/meta/metadata").read_text())
    assert bits["sums"].keys() == {"params", "metrics", "optimizer", "iterator"}
    file = max((folder / "checkpoints/4/params").rglob("d/*"), key=lambda path: path.stat().st_size)
    flip(file, 4 * file.stat().st_size)
    for verb in verbs(trained_run, folder):
        assert verb() == 2
        err = capsys.readouterr().err
        assert f"error: the checkpoint {folder}/checkpoints/4 is damaged" in err and "Traceback" not in err
    assert train.main(["--workdir", str(folder), *flags, "--config.eval.after_training=false"]) == 0
    assert (folder / "checkpoints/damaged-4").exists()
    # It went on from step 2, to the same end.
    assert (folder / "metrics.jsonl").read_text() == (trained_run.workdir / "metrics.jsonl").read_text()
    assert next(verbs(trained_run, folder))() == 0


def test_an_edited_config_is_refused_by_every_verb(run, trained_run, capsys):
    folder, _ = run
    path = folder / "config.json"
    edited = json.loads(path.read_text())
    edited["hierarchy"]["window_s"] = 32.0
    path.write_text(json.dumps(edited))
    for verb in verbs(trained_run, folder):
        assert verb() == 2
        assert "hierarchy.window_s: saved 16.0, now 32.0" in capsys.readouterr().err
