"""From a config to data and a stage, on a few minutes of Shapes with random parts."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_base import config_of

from revision_jax.checkpoint import fingerprint
from revision_jax.config import ConfigError
from revision_jax.parallel.mesh import make_mesh
from revision_jax.runs.grounder import restore_grounder
from revision_jax.runs.splits import open_split, prepare_data
from revision_jax.runs.tasks import dense_windows, make_task
from revision_jax.training import loop
from revision_jax.training.state import take_apart


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def prepared(base, mesh, tmp_path_factory):
    config = config_of(base, tmp_path_factory.mktemp("data"))
    seen = []
    return config, prepare_data(config, mesh, on_video=lambda *done: seen.append(done)), seen


def test_shapes_are_prepared_once(prepared, mesh):
    config, directories, seen = prepared
    assert list(directories) == ["train", "val", "test"]
    assert ("train", 2, 2) in seen and ("test", 1, 1) in seen
    before = len(seen)
    assert prepare_data(config, mesh) == directories and len(seen) == before


def test_other_data_must_be_there(base, tmp_path):
    config = config_of(base, tmp_path, data__name="mad", data__fps=5.0)
    with pytest.raises(ConfigError, match=r"no train, val, test under .* of data.name 'mad': .* at 5.0 frames"):
        prepare_data(config)


def test_prepared_data_of_any_name_is_found(prepared, tmp_path):
    config, directories, _ = prepared
    for split, directory in directories.items():
        (tmp_path / split).symlink_to(directory)
    folder = config_of(Path(config.base.llm).parent, tmp_path, data__name="folder")
    assert prepare_data(folder) == {split: tmp_path / split for split in directories}


def test_a_split_is_checked_against_the_run(prepared):
    config, directories, _ = prepared
    store, queries = open_split(config, directories["val"], width=12)
    assert store.manifest.width == 12 and {query.video_id for query in queries} == set(store.video_ids)
    with pytest.raises(ConfigError, match=r"12 wide .*base.projector expects 768"):
        open_split(config, directories["val"], width=768)
    with pytest.raises(ConfigError, match=r"at 1.0 frames a second, data.fps is 5.0"):
        open_split(config_of(Path(config.base.llm).parent, data__fps=5.0), directories["val"], width=12)


def test_the_dense_stage_trains_and_stands_on_its_files(prepared, mesh, tmp_path):
    config, directories, _ = prepared
    task = dense_windows(config, directories["train"], mesh)
    assert set(task.base) == {"llm", "clip", "projector", "manifest.json", "queries.jsonl"}
    assert task.base["queries.jsonl"]["sha256"] == fingerprint(directories["train"] / "queries.jsonl")
    batch = next(iter(task.batches))
    assert batch["video"].shape == (4, 8, 12) and batch["tokens"].shape == (4, 4, 48)
    assert "in video" in task.describe_record(int(batch["record_id"][0]))
    result = loop.run(config, tmp_path / "run", task)
    assert (result.last_step, result.compilations) == (4, 1)
    same = jax.tree.map(lambda a, b: a.sharding == b.sharding, *(take_apart(m)[1] for m in (task.model, result.model)))
    assert all(same.values())  # or a program compiled for one would be compiled again for the other
    before, after = (m.llm.layers.self_attn.q_proj.lora_b[...] for m in (task.model, result.model))
    assert np.all(before == 0) and np.any(after != 0)
    # Resumed in the middle, with the real pipeline: the same losses and weights to the bit.
    losses = (tmp_path / "run/metrics.jsonl").read_text()
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    again = loop.run(config, tmp_path / "run", dense_windows(config, directories["train"], mesh))
    assert again.first_step == 2 and (tmp_path / "run/metrics.jsonl").read_text() == losses
    np.testing.assert_array_equal(again.model.llm.layers.self_attn.q_proj.lora_b[...], after)


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
def test_a_stage_trains_its_part_alone_and_resumes_to_the_bit(chain, mesh, tmp_path, stage, caplog):
    spec, trains, shapes = STAGES[stage]
    config = chain.config(spec, train__learning_rate=1e-2)
    build = lambda: make_task(config, chain.directories["train"], mesh)
    task = build()
    iterator = iter(task.batches)
    assert [next(iterator)["video"].shape for _ in shapes] == shapes
    with caplog.at_level("INFO", "revision_jax"):
        result = loop.run(config, tmp_path / "run", task)
    assert result.compilations == result.batch_shapes == len(set(shapes))
    before, after = (take_apart(model)[1] for model in (task.model, result.model))
    for path, array in after.items():
        trained = re.match(trains, path) is not None
        assert np.any(array != before[path]) == trained or path.endswith("in_proj/bias"), path
    table = next(text for text in caplog.messages if "trained, " in text)
    counts = {path: array.size for path, array in after.items() if re.match(trains, path)}
    assert f"{sum(counts.values()):,} trained" in table
    # Resumed in the middle: the same losses and weights to the bit.
    losses = (tmp_path / "run/metrics.jsonl").read_text()
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    again = loop.run(config, tmp_path / "run", build())
    assert again.first_step == 2 and (tmp_path / "run/metrics.jsonl").read_text() == losses
    for path, array in take_apart(again.model)[1].items():
        np.testing.assert_array_equal(array, after[path])
    # Restored for a search: the same grounder, predecessors' parts included.
    restored, step = restore_grounder(config, tmp_path / "run", mesh)
    assert step == 4
    for path, array in take_apart(restored)[1].items():
        np.testing.assert_array_equal(array, after[path])


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
        batches = iter(make_task(config, train, mesh).batches)
        drawn[share] = [next(batches)["video"].tobytes() for _ in range(12)]  # clips and groups in turn
    changed = [a != b for a, b in zip(drawn[0.0], drawn[1.0], strict=True)]
    assert {"clips": any(changed[::2]), "groups": any(changed[1::2])} == {
        kind: kind == acts_on for kind in ("clips", "groups")
    }


def test_a_stage_starts_from_what_was_trained_before(chain, mesh):
    dense, _ = restore_grounder(chain.config("configs/stage1.py"), chain.folder / "dense", mesh)
    sparse, _ = restore_grounder(chain.config("configs/stage1_sparse.py"), chain.folder / "sparse", mesh)
    long = make_task(chain.config("configs/stage2.py"), chain.directories["train"], mesh).model
    arrays = take_apart(long)[1]
    for path, array in take_apart(dense)[1].items():
        np.testing.assert_array_equal(arrays[path], array)
    assert np.any(arrays["llm/layers/self_attn/q_proj/lora_b"] != 0)
    for path, array in take_apart(sparse)[1].items():
        np.testing.assert_array_equal(arrays[path], array)
    assert {path.partition("/")[0] for path in arrays} == {"llm", "adapter", "sparse"}


def test_groups_of_videos_are_a_stage_too(chain, mesh):
    two = {"hierarchy__levels": (2,), "data__group_copies": (1,), "search__keep": (0.5,)}
    config = chain.config("configs/stage2.py", data__groups="videos", **two)
    task = make_task(config, chain.directories["train"], mesh)
    assert next(iter(task.batches))["video"].shape == (2, 2, 8, 16)
    assert "of 2 videos" in task.describe_record(0)
