"""A stage's training, from a config to trained weights, on a few minutes of Shapes with random parts."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from tiny_base import config_of

from revision_jax import config as configs
from revision_jax.config import ConfigError
from revision_jax.fingerprints import fingerprint, fingerprint_trained
from revision_jax.parallel.mesh import make_mesh
from revision_jax.parallel.programs import forget
from revision_jax.runs import batches
from revision_jax.runs.grounder import fingerprints
from revision_jax.runs.predecessors import served_step
from revision_jax.runs.run import Run
from revision_jax.runs.splits import open_split, prepare_data
from revision_jax.runs.training import PROJECTOR, check_early, make_task, train, wanted_splits
from revision_jax.train import main
from revision_jax.training.state import take_apart


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(devices=jax.devices()[:1])


def test_the_dense_stage_trains_and_stands_on_its_files(base, mesh, tmp_path):
    run = Run(config_of(base, tmp_path / "data", mesh__data=1), tmp_path / "run", mesh)
    directories = prepare_data(run.config, mesh)
    task = make_task(run, directories)
    assert set(task.base) == {"llm", "encoder", "projector", "manifest.json", "queries.jsonl"}
    assert task.base["queries.jsonl"]["sha256"] == fingerprint(directories["train"] / "queries.jsonl")
    batch = next(iter(task.batches))
    assert batch["video"].shape == (4, 8, 12) and batch["tokens"].shape == (4, 4, 48)
    assert "in video" in task.describe_record(int(batch["record_id"][0]))
    assert not task.validation
    result = train(run, directories)
    assert (result.last_step, result.compilations) == (4, 1)
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, *(take_apart(m)[1] for m in (task.model, result.model)))
    assert all(same.values())  # or a program compiled for one would be compiled again for the other
    before, after = (m.llm.layers.self_attn.q_proj.lora_b[...] for m in (task.model, result.model))
    assert np.all(before == 0) and np.any(after != 0)
    # Resumed in the middle, with the real pipeline: the same losses and weights to the bit.
    losses = (tmp_path / "run/metrics.jsonl").read_text()
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    again = train(Run(run.config, run.workdir, mesh), directories)
    assert again.first_step == 2 and (tmp_path / "run/metrics.jsonl").read_text() == losses
    np.testing.assert_array_equal(again.model.llm.layers.self_attn.q_proj.lora_b[...], after)


VALIDATED = {"train__eval_every": 2, "train__learning_rate": 1e-2, "eval__max_rows": 4}
# Stage -> (its config, what trains, shapes of the videos of the batches that come in turn).
STAGES = {
    "align": ("configs/align.py", r"adapter/", [(2, 1, 16)]),
    "sparse": ("configs/stage1_sparse.py", r"sparse/", [(2, 1, 8, 16)]),
    "long": ("configs/stage2.py", r"llm/.*lora_[ab]", [(2, 5, 8, 16), (2, 4, 8, 16)]),
    "unified": (
        "configs/stage2.py:unified",
        r"llm/.*lora_[ab]",
        [(2, 8, 16), (2, 5, 8, 16), (2, 8, 16), (2, 4, 8, 16)],
    ),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_its_part_alone_and_resumes_to_the_bit(chain, mesh, tmp_path, stage, caplog, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "revision_jax.training.workdir.MetricsLog.show", lambda _, step, rows: shown.append((step, rows))
    )
    spec, trains, shapes = STAGES[stage]
    config = chain.config(spec, **VALIDATED)
    build = lambda: Run(config, tmp_path / "run", mesh)
    run = build()
    iterator = iter(make_task(run, chain.directories).batches)
    assert [next(iterator)["video"].shape for _ in shapes] == shapes
    forget()  # `unified` has a program in common with `long`
    with caplog.at_level("INFO", "revision_jax"):
        result = train(run, chain.directories)
    assert result.compilations == result.batch_shapes == len(set(shapes))
    before, after = (take_apart(model)[1] for model in (run.grounder("fresh"), result.model))
    for path, array in after.items():
        trained = re.match(trains, path) is not None
        assert np.any(array != before[path]) == trained or path.endswith("in_proj/bias"), path
    table = next(text for text in caplog.messages if "trained, " in text)
    counts = {path: array.size for path, array in after.items() if re.match(trains, path)}
    assert f"{sum(counts.values()):,} trained" in table
    assert run.trained_parameters == sum(counts.values())
    # Validated on held-out rows on the way.
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    held_out = [row for row in rows if "val_loss" in row]
    assert [row["step"] for row in held_out] == [2, 4] and all(np.isfinite(row["val_loss"]) for row in held_out)
    # Each row's right answer is read back as its description has it.
    assert [step for step, _ in shown] == [2, 4] and len(shown[0][1]) == 2 * len(set(shapes))
    for one in (one for _, examples in shown for one in examples):
        assert one.about.endswith(f": {one.target}"), one
    # Resumed in the middle: the same losses and weights to the bit.
    losses = (tmp_path / "run/metrics.jsonl").read_text()
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    again = train(build(), chain.directories)
    assert again.first_step == 2 and (tmp_path / "run/metrics.jsonl").read_text() == losses
    for path, array in take_apart(again.model)[1].items():
        np.testing.assert_array_equal(array, after[path])
    # Restored for a search: the same grounder, predecessors' parts included.
    restored = Run.load(tmp_path / "run", devices=mesh.devices.flat)
    assert restored.steps == 4
    for path, array in take_apart(restored.grounder("trained"))[1].items():
        np.testing.assert_array_equal(array, after[path])
    assert (tmp_path / "run" / PROJECTOR).exists() == (stage == "align")
    if stage == "align":  # the next stage takes it as the message says
        flag, path = re.search(r"to the next stage: --config\.(\S+)=(\S+)", caplog.text).groups()
        following = Run(chain.config("configs/stage1.py", **{flag.replace(".", "__"): path}), mesh=mesh)
        kernel = following.grounder("fresh").adapter.kernel[...]
        np.testing.assert_array_equal(kernel, result.model.adapter.kernel[...])


@pytest.mark.parametrize(("field", "acts_on"), [("near_miss_fraction", "clips"), ("group_near_misses", "groups")])
def test_each_stream_of_unified_has_its_own_share_of_near_misses(chain, mesh, tmp_path, field, acts_on):
    """Also with strategies beside `random`, which clips and groups share."""
    train = shutil.copytree(chain.directories["train"], tmp_path / "train")
    rows = [json.loads(line) for line in (train / "queries.jsonl").read_text().splitlines()]
    near = [[20.0, 23.0], [60.0, 63.0], [100.0, 103.0]]
    (train / "queries.jsonl").write_text("".join(json.dumps(row | {"distractors": near}) + "\n" for row in rows))
    mixed = {"data__negatives": (("random", 9.0), ("hard", 1.0)), "data__near_miss_fraction": 0.0}
    drawn = {}
    for share in (0.0, 1.0):
        changes = mixed | {"data__group_near_misses": 0.0, f"data__{field}": share}
        config = chain.config("configs/stage2.py:unified", **changes)
        batches = iter(make_task(Run(config, mesh=mesh), {"train": train}).batches)
        drawn[share] = [next(batches)["video"].tobytes() for _ in range(12)]  # clips and groups in turn
    changed = [a != b for a, b in zip(drawn[0.0], drawn[1.0], strict=True)]
    assert {"clips": any(changed[::2]), "groups": any(changed[1::2])} == {
        kind: kind == acts_on for kind in ("clips", "groups")
    }


def test_a_stage_starts_from_what_was_trained_before(chain, mesh):
    dense, sparse = (Run.load(chain.folder / name, devices=mesh.devices.flat) for name in ("dense", "sparse"))
    long = make_task(Run(chain.config("configs/stage2.py"), mesh=mesh), chain.directories).model
    arrays = take_apart(long)[1]
    for run in (dense, sparse):
        for path, array in take_apart(run.grounder("trained"))[1].items():
            np.testing.assert_array_equal(arrays[path], array)
    assert np.any(arrays["llm/layers/self_attn/q_proj/lora_b"] != 0)
    assert {path.partition("/")[0] for path in arrays} == {"llm", "adapter", "sparse"}


def test_groups_of_videos_are_a_stage_too(chain, mesh):
    two = {"hierarchy__levels": (2,), "data__group_copies": (1,), "search__keep": (0.5,), "search__depth": 2}
    config = chain.config("configs/stage2.py", data__groups="videos", **two)
    task = make_task(Run(config, mesh=mesh), chain.directories)
    assert next(iter(task.batches))["video"].shape == (2, 2, 8, 16)
    assert "of 2 videos" in task.describe_record(0)


# ---------------------------------------------------------------------------------------------- what it needs
def test_a_training_reads_the_splits_that_it_uses_alone(chain):
    of = lambda spec, **changes: wanted_splits(Run(chain.config(spec, **changes)))
    assert of("configs/stage1.py") == ("train", "val", "test")
    assert of("configs/stage1_sparse.py") == ("train", "test")  # nothing is chosen on val
    assert of("configs/stage1.py", eval__after_training=False) == ("train",)
    assert of("configs/stage1.py", eval__after_training=False, train__eval_every=2) == ("train", "val")
    assert of("configs/stage1.py", eval__split="val") == ("train", "val")


def test_what_is_missing_or_does_not_fit_is_told_before_the_data(chain, tmp_path):
    config = chain.config("configs/stage1_sparse.py", base__encoder=str(tmp_path), init__dense=str(tmp_path / "dense"))
    with pytest.raises(ConfigError, match=r"(?s)init.dense: no trained run at .*; make it with"):
        check_early(Run(config, tmp_path / "run"))
    (tmp_path / "used/checkpoints/2").mkdir(parents=True)
    shutil.copy(chain.folder / "dense/config.json", tmp_path / "used")
    with pytest.raises(ConfigError, match="belongs to another config:\n  seed: 0 there, 3 now"):
        check_early(Run(chain.config("configs/stage1.py", seed=3), tmp_path / "used"))
    check_early(Run(chain.config("configs/stage1.py"), tmp_path / "used"))
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- validation
def test_validation_reads_val_and_does_not_change_the_training(chain, mesh, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(batches, "open_split", lambda *args: opened.append(args[1]) or open_split(*args))
    config = chain.config("configs/stage1.py", train__learning_rate=1e-2)
    plain = train(Run(config, tmp_path / "plain", mesh), chain.directories)
    assert not opened
    config = chain.config("configs/stage1.py", **VALIDATED)
    validated = train(Run(config, tmp_path / "validated", mesh), chain.directories)
    assert opened == [chain.directories["val"]]
    for path, array in take_apart(validated.model)[1].items():
        np.testing.assert_array_equal(array, take_apart(plain.model)[1][path])


def test_val_with_too_few_rows_is_refused(chain, mesh, tmp_path):
    run = Run(chain.config("configs/stage1_sparse.py", train__eval_every=2, train__batch_size=4), mesh=mesh)
    make_task(run, chain.directories)
    val = shutil.copytree(chain.directories["val"], tmp_path / "val")
    (val / "queries.jsonl").write_text((val / "queries.jsonl").read_text().splitlines()[0] + "\n")
    with pytest.raises(ConfigError, match=r"train.eval_every is 2, but val in .* cannot be used: .* a batch of 4"):
        make_task(run, chain.directories | {"val": val})


def test_the_best_step_is_the_one_that_is_used(chain, mesh, tmp_path, monkeypatch):
    """By the run itself, and by the stages after it."""
    losses = iter([0.5, 0.7])  # of steps 2 and 4
    monkeypatch.setattr(
        "revision_jax.training.loop.validate", lambda *_: {"val_loss": next(losses), "val_accuracy": 0.0}
    )
    config = chain.config("configs/stage1.py", **VALIDATED, train__keep_best=True)
    run = Run(config, tmp_path / "dense", mesh)
    result = train(run, chain.directories)
    assert (result.last_step, run.steps, served_step(config, run.workdir)) == (4, 2, 2)
    best = take_apart(result.model)[1]
    for path, array in take_apart(Run(config, run.workdir, mesh).grounder("trained"))[1].items():
        np.testing.assert_array_equal(array, best[path])
    # The last step's weights are others: the chain's dense run is the same training without validation.
    sparse = chain.config("configs/stage1_sparse.py", init__dense=str(run.workdir))
    found = fingerprints(sparse)["init.dense"]["sha256"]
    assert found == fingerprint_trained(run.workdir / "checkpoints", 2)
    assert found != fingerprint_trained(run.workdir / "checkpoints", 4)
    start = take_apart(Run(sparse, mesh=mesh).grounder("fresh"))[1]
    for path in ("llm/layers/self_attn/q_proj/lora_a", "llm/layers/self_attn/q_proj/lora_b"):
        np.testing.assert_array_equal(start[path], best[path])
    # Without keep_best the newest is used.
    newest = chain.config("configs/stage1.py", **VALIDATED)
    assert served_step(newest, run.workdir) == 4
    last = take_apart(Run(newest, run.workdir, mesh).grounder("trained"))[1]
    assert np.any(last["llm/layers/self_attn/q_proj/lora_b"] != best["llm/layers/self_attn/q_proj/lora_b"])


def test_sizes_that_cannot_fit_are_refused_before_anything_is_made(trained_run, tmp_path, capsys):
    changed = configs.differences(configs.load(), trained_run.config)
    flags = [f"--config.{key}={value}" for key, (_, value) in changed.items()]
    argv = ["--workdir", str(tmp_path / "run"), *flags]
    for key, value in (("train.batch_size", 10**9), ("lora.rank", 10**5)):
        assert main([*argv, f"--config.{key}={value}"]) == 2
        assert f"{key} is {value}; expected between 1 and" in capsys.readouterr().err
    # Each below its limit, together more than a machine has.
    assert main([*argv, "--config.train.batch_size=1000000", "--config.hierarchy.num_frames=100000"]) == 2
    assert "GiB. Nothing was made: take less of batches" in capsys.readouterr().err
