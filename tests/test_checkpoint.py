"""Checkpoints: what is restored, what is refused, and what a kill or a full disk leaves."""

import json
import logging
import os
import shutil
import subprocess
import sys

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from revision_jax.checkpoint import CheckpointError, Checkpoints
from revision_jax.checkpoint_record import Meta, config_changes
from revision_jax.fingerprints import fingerprint, fingerprint_trained

BASE = {"llm": {"path": "/models/llm", "sha256": "a" * 64}}
META = Meta({"seed": 0}, BASE)


def trees(scale):
    params = {"llm/layers/lora_a": jnp.arange(6.0).reshape(2, 3) * scale}
    return params, ({"mu": params, "count": jnp.int32(scale)}, jnp.int32(scale))


def new_iterator():
    return iter(grain.MapDataset.range(100).shuffle(seed=1).repeat().batch(2).to_iter_dataset())


def save_steps(folder, steps, *, meta=META, losses=None, **options):
    """Saves `steps`; `losses`: step -> validation loss."""
    iterator = new_iterator()
    with Checkpoints(folder, meta, **({"keep": 5} | options)) as checkpoints:
        for step in steps:
            while iterator.get_state()["next_index"] < step:
                next(iterator)
            checkpoints.save(step, *trees(step), iterator, val_loss=(losses or {}).get(step))


def kept(folder):
    return sorted(int(path.name) for path in folder.iterdir())


def test_restores_state_and_iterator_of_the_newest_step(tmp_path):
    save_steps(tmp_path / "c", [2, 4])
    reference, iterator = new_iterator(), new_iterator()
    expected = [next(reference) for _ in range(5)][4]
    with Checkpoints(tmp_path / "c", META) as checkpoints:
        step, params, optimizer = checkpoints.restore(*trees(0), iterator)
    assert step == 4
    jax.tree.map(np.testing.assert_array_equal, (params, optimizer), trees(4))
    np.testing.assert_array_equal(next(iterator), expected)


def test_an_empty_folder_restores_nothing(tmp_path):
    with Checkpoints(tmp_path / "c", META) as checkpoints:
        assert checkpoints.restore(*trees(0), new_iterator()) is None
        with pytest.raises(CheckpointError, match="holds no checkpoint; train first"):
            checkpoints.restore_params(trees(0)[0])


def test_only_the_newest_are_kept(tmp_path):
    save_steps(tmp_path / "c", [1, 2, 3], keep=2)
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["2", "3"]


def test_the_best_is_kept_beside_the_newest(tmp_path):
    save_steps(tmp_path / "c", range(1, 7), keep=2, keep_best=True, losses={1: 3.0, 2: 1.0, 3: 2.0, 5: 1.5, 6: 4.0})
    assert kept(tmp_path / "c") == [2, 5, 6]
    # A second start knows it, and replaces it by a better one.
    save_steps(tmp_path / "c", [7], keep=2, keep_best=True, losses={7: 5.0})
    assert kept(tmp_path / "c") == [2, 6, 7]
    save_steps(tmp_path / "c", [8, 9, 10], keep=2, keep_best=True, losses={8: 0.5})
    assert kept(tmp_path / "c") == [8, 9, 10]


def test_parameters_are_restored_of_the_best_a_training_from_the_newest(tmp_path):
    save_steps(tmp_path / "c", [1, 2, 3], keep_best=True, keep=1, losses={1: 2.0, 2: 1.0, 3: 3.0})
    with Checkpoints(tmp_path / "c", META, read_only=True) as checkpoints:
        assert checkpoints.best_step() == 2 and checkpoints.latest_step == 3
        for best, expected in ((True, 2), (False, 3)):
            step, params = checkpoints.restore_params(trees(0)[0], best=best)
            assert step == expected
            np.testing.assert_array_equal(params["llm/layers/lora_a"], trees(expected)[0]["llm/layers/lora_a"])
    with Checkpoints(tmp_path / "c", META, keep_best=True) as checkpoints:
        assert checkpoints.restore(*trees(0), new_iterator())[0] == 3
        # At once after a save: the write in the background is waited for.
        checkpoints.save(4, *trees(4), new_iterator(), val_loss=0.5)
        assert checkpoints.restore_params(trees(0)[0], best=True)[0] == 4


def test_a_step_without_a_validation_loss_is_never_the_best(tmp_path):
    save_steps(tmp_path / "c", [1, 2], losses={2: float("nan")})
    with Checkpoints(tmp_path / "c", META, keep_best=True) as checkpoints:
        assert checkpoints.best_step() is None
        with pytest.raises(CheckpointError, match="no checkpoint with a validation loss"):
            checkpoints.restore_params(trees(0)[0], best=True)
        checkpoints.save(3, *trees(3), new_iterator(), val_loss=7.0)
        checkpoints.save(4, *trees(4), new_iterator())
        assert checkpoints.best_step() == 3
    assert kept(tmp_path / "c") == [3, 4]
    with Checkpoints(tmp_path / "empty", META) as checkpoints:
        assert checkpoints.best_step() is None


def test_the_fingerprint_of_trained_parameters_is_that_of_a_step(tmp_path):
    save_steps(tmp_path / "c", [1, 2])
    assert fingerprint_trained(tmp_path / "c") == fingerprint_trained(tmp_path / "c", 2)
    assert fingerprint_trained(tmp_path / "c", 1) != fingerprint_trained(tmp_path / "c", 2)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7 in"):
        fingerprint_trained(tmp_path / "c", 7)


def test_a_reader_takes_the_parameters_alone_and_changes_nothing(tmp_path):
    save_steps(tmp_path / "c", [1, 2, 3])
    before = sorted(tmp_path.rglob("*"))
    with Checkpoints(tmp_path / "c", META, read_only=True) as checkpoints:
        step, params = checkpoints.restore_params(trees(0)[0])
    assert step == 3
    np.testing.assert_array_equal(params["llm/layers/lora_a"], trees(3)[0]["llm/layers/lora_a"])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_donated_buffer_does_not_change_what_is_saved(tmp_path):
    """The next step overwrites the state while the background write runs."""
    overwrite = jax.jit(lambda x: x * 0 - 1, donate_argnums=0)
    params, optimizer = {"a": jnp.ones((512, 512))}, {"b": jnp.ones((512, 512)) * 2}
    with Checkpoints(tmp_path / "c", META) as checkpoints:
        checkpoints.save(1, params, optimizer, new_iterator())
        for _ in range(3):
            params, optimizer = overwrite(params["a"]), overwrite(optimizer["b"])
            params, optimizer = {"a": params}, {"b": optimizer}
        checkpoints.wait()
        _, params, optimizer = checkpoints.restore(params, optimizer, new_iterator())
    assert np.all(params["a"] == 1) and np.all(optimizer["b"] == 2)


def test_an_unfinished_write_is_ignored_and_removed(tmp_path):
    save_steps(tmp_path / "c", [1, 2])
    # What a kill in the middle of a write leaves: Orbax's temporary directory with some of the files.
    half = tmp_path / "c" / "3.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "c" / "2", half)
    shutil.rmtree(half / "optimizer")
    (half / "commit_success.txt").unlink(missing_ok=True)
    with Checkpoints(tmp_path / "c", META) as checkpoints:
        assert checkpoints.latest_step == 2
        step, params, _ = checkpoints.restore(*trees(0), new_iterator())
        assert step == 2 and np.all(params["llm/layers/lora_a"] == trees(2)[0]["llm/layers/lora_a"])
        assert not half.exists()
        checkpoints.save(3, *trees(3), new_iterator())
    with Checkpoints(tmp_path / "c", META) as checkpoints:
        assert checkpoints.latest_step == 3


KILLED_IN_A_WRITE = """
import os, signal, sys, threading, time
from pathlib import Path
import tests_checkpoint as t
from revision_jax.checkpoint import Checkpoints

folder = Path(sys.argv[1])
t.save_steps(folder, [1])
iterator = t.new_iterator()

def watch():  # kills as soon as the second write has begun
    while True:
        if any("tmp" in p.name for p in folder.iterdir()):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1e-4)  # on a single core the thread that writes would never have its turn

threading.Thread(target=watch, daemon=True).start()
with Checkpoints(folder, t.META) as checkpoints:
    checkpoints.save(2, *t.trees(2), iterator)
"""

FULL_DISK = """
import resource, sys
from pathlib import Path
import jax.numpy as jnp
import tests_checkpoint as t
from revision_jax.checkpoint import CheckpointError, Checkpoints

folder = Path(sys.argv[1])
t.save_steps(folder, [1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))  # no file may grow past 64 KiB
import numpy as np
big = {"a": jnp.asarray(np.random.default_rng(0).normal(size=(512, 512)))}
try:
    with Checkpoints(folder, t.META) as checkpoints:
        checkpoints.save(2, big, big, t.new_iterator())
        checkpoints.wait()
except CheckpointError as error:
    print("ERROR", error)
"""


def run_script(code, tmp_path):
    """Runs `code` in a process of its own, with this file importable as `tests_checkpoint`."""
    shutil.copy(__file__, tmp_path / "tests_checkpoint.py")
    (tmp_path / "script.py").write_text(code)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "c")]
    path = {"PYTHONPATH": ":".join([str(tmp_path), *filter(None, sys.path)])}
    return subprocess.run(command, env=os.environ | path, capture_output=True, text=True, timeout=900)


def test_a_kill_during_a_write_loses_that_write_alone(tmp_path):
    done = run_script(KILLED_IN_A_WRITE, tmp_path)
    assert done.returncode == -9, done.stderr
    assert any("tmp" in p.name for p in (tmp_path / "c").iterdir())
    with Checkpoints(tmp_path / "c", META) as checkpoints:
        assert checkpoints.restore(*trees(0), new_iterator())[0] == 1
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["1"]


def test_a_full_disk_is_one_clear_error(tmp_path):
    done = run_script(FULL_DISK, tmp_path)
    assert "ERROR cannot" in done.stdout, done.stderr
    assert "MiB are free. What is finished is whole" in done.stdout
    with Checkpoints(tmp_path / "c", META) as checkpoints:
        assert checkpoints.latest_step == 1


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot open .*file/c"):
        Checkpoints(tmp_path / "file" / "c", META)


def test_another_base_or_another_tree_is_refused_with_both_sides(tmp_path):
    save_steps(tmp_path / "c", [1])
    other = Meta({"seed": 0}, {"llm": {"path": "/other", "sha256": "b" * 64}})
    params = {"llm/layers/lora_a": jnp.zeros((2, 4)), "new": jnp.zeros(1)}
    with Checkpoints(tmp_path / "c", other) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(params, trees(0)[1], new_iterator())
    text = str(error.value)
    assert "llm: trained on /models/llm (sha256 aaaaaaaaaaaa), found /other (sha256 bbbbbbbbbbbb)" in text
    assert "parameter llm/layers/lora_a: saved [[2, 3], 'float32'], expected [[2, 4], 'float32']" in text
    assert "parameter new: saved None" in text


def test_the_path_of_a_base_may_change(tmp_path):
    save_steps(tmp_path / "c", [1])
    moved = Meta({"seed": 0}, {"llm": {"path": "/moved/llm", "sha256": "a" * 64}})
    with Checkpoints(tmp_path / "c", moved) as checkpoints:
        assert checkpoints.restore(*trees(0), new_iterator())[0] == 1


CONFIG = {"seed": 0, "train": {"learning_rate": 1e-3, "accumulate": 1}, "search": {"depth": 1, "policy": "all"}}
FREE = ("train.accumulate", "search.")


def test_free_keys_may_change_on_resume_and_the_log_tells_it(tmp_path, caplog):
    save_steps(tmp_path / "c", [1], meta=Meta(CONFIG, BASE))
    train = {"learning_rate": 1e-3, "accumulate": 4}
    changed = CONFIG | {"train": train, "search": {"depth": 3, "policy": "all"}}
    caplog.set_level(logging.INFO, "revision_jax.checkpoint")
    with Checkpoints(tmp_path / "c", Meta(changed, BASE), free=FREE) as checkpoints:
        assert checkpoints.restore(*trees(0), new_iterator())[0] == 1
        assert "since step 1: search.depth: saved 1, now 3; train.accumulate: saved 1, now 4" in caplog.text
        checkpoints.save(2, *trees(2), new_iterator())
    caplog.clear()
    with Checkpoints(tmp_path / "c", Meta(changed, BASE)) as checkpoints:  # the new step holds the new config
        assert checkpoints.restore(*trees(0), new_iterator())[0] == 2
    assert not caplog.records


def test_other_keys_may_not_change_on_resume(tmp_path):
    save_steps(tmp_path / "c", [1], meta=Meta(CONFIG, BASE))
    changed = CONFIG | {"seed": 1, "train": {"learning_rate": 2e-3, "accumulate": 4}, "extra": True}
    with Checkpoints(tmp_path / "c", Meta(changed, BASE), free=FREE) as checkpoints:
        with pytest.raises(CheckpointError) as error:
            checkpoints.restore(*trees(0), new_iterator())
        # Nor where a trained run is read: an edited config.json would change its answers.
        with pytest.raises(CheckpointError, match="seed: saved 0, now 1"):
            checkpoints.restore_params(trees(0)[0])
    text = str(error.value)
    for line in ("seed: saved 0, now 1", "train.learning_rate: saved 0.001, now 0.002", "extra: saved None, now True"):
        assert f"\n  {line}\n" in text
    assert "accumulate" not in text


def test_a_free_name_must_be_one_of_the_config(tmp_path):
    for name in ("train.accumulat", "train", "serach."):
        with pytest.raises(ValueError, match=f"'{name}' may differ on resume, but no key"):
            Checkpoints(tmp_path / "c", Meta(CONFIG, BASE), free=(name,))


def test_config_changes_parts_what_may_differ_from_what_may_not():
    one = {"a": 1, "b": {"c": (1, 2), "d": 0.5}}
    assert config_changes(one, {"a": 1, "b": {"c": [1, 2], "d": 0.5}}) == ({}, {})
    assert config_changes(one, {"a": 2, "b": {"c": [1], "d": 0.5}}, ("b.",)) == ({"b.c": ([1, 2], [1])}, {"a": (1, 2)})
    assert config_changes(one, {"a": 1, "b": {"c": (1, 2)}}, ("b.d",)) == ({"b.d": (0.5, None)}, {})


def test_fingerprint_is_of_names_and_contents(tmp_path):
    folder = tmp_path / "llm"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text(json.dumps({"a": 1}))
    (folder / "README.md").write_text("not a weight")
    one = fingerprint(folder)
    (folder / "README.md").write_text("changed")
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert one == fingerprint(folder) == fingerprint(moved)
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert fingerprint(folder) != one
    assert fingerprint(folder / "config.json") != fingerprint(folder / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="no weights at"):
        fingerprint(tmp_path / "nothing")


def test_weights_alone_are_read_but_not_resumed(tmp_path):
    meta, params = Meta({}, {}), {"a": jnp.arange(3.0)}
    with Checkpoints(tmp_path, meta) as checkpoints:
        checkpoints.save_weights(0, params)
    with Checkpoints(tmp_path, meta, read_only=True) as checkpoints:
        step, restored = checkpoints.restore_params(params)
        assert step == 0
        np.testing.assert_array_equal(restored["a"], params["a"])
        with pytest.raises(CheckpointError, match=r"converted, with no optimizer.*init\.dense"):
            checkpoints.restore(params, params, None)


def test_large_files_are_hashed_once_until_they_change(tmp_path, monkeypatch):
    from revision_jax import fingerprints

    monkeypatch.setattr(fingerprints, "LARGE", 4)
    hashed, whole = [], fingerprints._hashed
    monkeypatch.setattr(fingerprints, "_hashed", lambda file: hashed.append(file.name) or whole(file))
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    assert fingerprint(file) == fingerprint(file) and hashed == ["model.safetensors"]
    one = fingerprint(file)
    file.write_bytes(b"other weights")
    assert fingerprint(file) != one and len(hashed) == 2
