"""From a config to its data: gaps are refused or left out, mixtures and foreign splits are opened."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_base import config_of, make_base

from revision_jax.config import ConfigError
from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.annotations.queries import Query
from revision_jax.data.annotations.rows import Annotations, Row
from revision_jax.data.batches.negatives.random import Random
from revision_jax.data.batches.query_tokens import StoredQueryTokens
from revision_jax.data.builders.annotated import QUERY_TOKENS, Imported, QueryFeatures
from revision_jax.data.check import save_verdict
from revision_jax.data.video.extraction import Encoder, identify
from revision_jax.evaluation.evaluate import evaluate
from revision_jax.evaluation.evaluator import Scored
from revision_jax.evaluation.moments import MomentSearch
from revision_jax.evaluation.options import Options
from revision_jax.parallel.mesh import make_mesh
from revision_jax.runs import batches, splits
from revision_jax.runs.base import make_prompts
from revision_jax.runs.run import Run
from revision_jax.runs.splits import Split, missing_data, open_split, open_train, other_split, prepare_data
from revision_jax.runs.training import check_files


class Source:
    """Features in memory."""

    def __init__(self, arrays):
        self.arrays = arrays

    def keys(self):
        return list(self.arrays)

    def read(self, key):
        return self.arrays[key]

    def identity(self):
        return {}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, and a foreign data set with train/, val/ and test/ whose features are said to be from its CLIP."""
    folder = tmp_path_factory.mktemp("datasets")
    base = make_base(folder / "base")
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        arrays = {f"{split}{n}": rng.normal(size=(120, 12)).astype(np.float16) for n in range(2)}
        rows = [
            Row(f"{video_id}/{n}", video_id, f"a {word} circle", ((10.0 + 20 * n, 14.0 + 20 * n),))
            for video_id in arrays
            for n, word in enumerate(("red", "blue", "green"))
        ]
        encoder = identify(base / "clip", 1.0)
        Imported(folder / "foreign" / split, split, encoder, Annotations(rows), Source(arrays), name="f").prepare()
    return base, folder


@pytest.fixture
def foreign(made, tmp_path):
    base, folder = made
    shutil.copytree(folder / "foreign", tmp_path / "foreign")
    return lambda **changes: config_of(base, tmp_path / "foreign", data__name="folder", **changes), tmp_path / "foreign"


def test_sound_data_is_taken(foreign):
    make, folder = foreign
    assert prepare_data(make()) == {split: folder / split for split in ("train", "val", "test")}
    data = open_train(make(), folder / "train", 12)
    assert len(data) == 1 and isinstance(data[0].negatives, Random) and data[0].weight == 1


def test_a_query_outside_its_video_is_refused_or_left_out(foreign):
    make, folder = foreign
    path = folder / "train/queries.jsonl"
    first = json.loads(path.read_text().splitlines()[0])
    path.write_text(path.read_text() + json.dumps(first | {"query_id": "late", "moments": [[5000, 5001]]}) + "\n")
    with pytest.raises(ConfigError, match=r"(?s)train: outside video .* late: .*data\.faults=drop"):
        prepare_data(make())
    config = make(data__faults="drop")
    prepare_data(config)
    _, queries = open_split(config, folder / "train", 12)
    assert "late" not in {query.query_id for query in queries} and len(queries) == 6


def test_what_a_deep_check_found_counts(foreign):
    make, folder = foreign
    _, queries = open_split(make(), folder / "train", 12)
    bad = queries[0].video_id
    save_verdict(folder / "train", [Gap("damaged", "record 3", bad)])
    with pytest.raises(ConfigError, match=r"damaged .*record 3"):
        prepare_data(make())
    _, left = open_split(make(data__faults="drop"), folder / "train", 12)
    assert left and left == [query for query in queries if query.video_id != bad]


def test_leaks_damage_and_other_encoders_are_refused(foreign, made):
    make, folder = foreign
    shutil.rmtree(folder / "val")
    shutil.copytree(folder / "test", folder / "val")
    with pytest.raises(ConfigError, match="split leak"):
        prepare_data(make())
    other = make_base(made[1] / "other", seed=5)
    with pytest.raises(ConfigError, match=r"encoder .*features of base/clip .*; expected other/clip"):
        prepare_data(config_of(other, folder, data__name="folder"))
    shard = next((folder / "train").rglob("*array_record-*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    for faults in ("refuse", "drop"):
        with pytest.raises(ValueError, match="bytes"):
            config = make(data__faults=faults)
            prepare_data(config)
            open_split(config, folder / "train", 12)


def test_edited_queries_are_told(foreign, caplog):
    make, folder = foreign
    open_split(make(), folder / "val", 12)
    assert not caplog.messages
    path = folder / "val" / "queries.jsonl"
    row = json.loads(path.read_text().split("\n")[0])
    row["sentence"] += " again"
    path.write_text(json.dumps(row) + "\n")
    _, queries = open_split(make(), folder / "val", 12)
    assert [query.sentence for query in queries] == [row["sentence"]]
    assert f"{path} was changed since it was made" in caplog.text


def test_a_split_of_any_other_data_set(foreign):
    make, folder = foreign
    assert other_split(make(), folder / "val") == ("foreign-val", folder / "val")
    with pytest.raises(ConfigError, match="unfinished"):
        other_split(make(), folder)


def test_mixtures_and_strategies_of_a_config(foreign, made):
    make, folder = foreign
    other = str(made[1] / "foreign")
    config = make(data__mixture=((other, 2.5),), data__negatives=(("random", 1.0), ("cross_video", 1.0)))
    check_files(config, splits.SPLITS)
    data = open_train(config, folder / "train", 12)
    assert [(str(own.store.path), own.weight) for own in data] == [
        (str(folder / "train"), 1.0),
        (f"{other}/train", 2.5),
    ]
    drawn = [data[0].negatives.draw(data[0].queries[0], np.random.default_rng(n), 0.0) for n in range(8)]
    assert len({clip.video_id for clip in drawn}) == 1  # every sentence is said of both videos
    source = batches.Source(config, make_prompts(config), make_mesh(), folder / "train", 12)
    [stream] = batches.WINDOWS.streams(source, 0, 1)
    assert stream.batches[0]["video"].shape == (4, 8, 12)
    assert np.mean([stream.describe_record.clips[n][0] for n in range(70)]) == pytest.approx(5 / 7, abs=0.02)
    with pytest.raises(ConfigError, match=r"data\.mixture: no manifest\.json in nowhere"):
        check_files(make(data__mixture=(("nowhere", 1.0),)), ["train"])
    check_files(make(data__mixture=(("nowhere", 1.0),)), ["val"])  # is mixed with `train` alone


def test_stored_query_features_are_used(foreign):
    make, folder = foreign
    config = make(prompt__query_tokens=4)
    store, queries = open_split(config, folder / "train", 12)
    arguments = config, store, queries, make_prompts(config)
    made = batches.make_loader(*arguments).query_tokens
    asked = queries[0].query_id, queries[0].sentence
    by_encoder = {query.query_id: made(query.query_id, query.sentence) for query in queries}
    source = Source({name: own["query"][own["query_mask"]] for name, own in by_encoder.items()})
    encoder = Encoder("text", "0" * 64, source.read(queries[0].query_id).shape[1], 1.0)
    QueryFeatures(folder / "train", "train", encoder, source.keys(), source).prepare()
    tokens = batches.make_loader(*arguments).query_tokens
    assert isinstance(tokens, StoredQueryTokens)
    for key, value in tokens(*asked).items():
        np.testing.assert_array_equal(value, made(*asked)[key])
    assert prepare_data(config)  # its check looks at them too
    with pytest.raises(ValueError, match=r"1 of .* queries have no token features"):
        batches.make_loader(
            config, store, [*queries, dataclasses.replace(queries[0], query_id="n", sentence="New.")], *arguments[3:]
        )
    for other, how in ((-source.read(asked[0]), "cosine -1.00"), (source.read(asked[0])[:-1], r"\[\d, \d+\] against")):
        shutil.rmtree(folder / "train" / QUERY_TOKENS)
        changed = Source(source.arrays | {asked[0]: other})
        QueryFeatures(folder / "train", "train", encoder, changed.keys(), changed).prepare()
        with pytest.raises(ValueError, match=rf"of 6 sentences 1 have other token features than base\.encoder.*{how}"):
            batches.make_loader(*arguments)


def test_evaluate_scores_any_prepared_split(foreign, made, tmp_path, monkeypatch):
    make, folder = foreign
    asked = []
    monkeypatch.setattr(MomentSearch, "__call__", lambda _, evaluation: asked.append(evaluation) or Scored({}))
    monkeypatch.setattr("revision_jax.evaluation.evaluate.write_summary", lambda *_: None)
    monkeypatch.setattr("revision_jax.evaluation.evaluate.print_table", lambda *_: None)
    elsewhere = made[1] / "foreign/test"
    metrics = evaluate(Run(make(), tmp_path / "run"), Options(data=str(elsewhere)))
    assert metrics["split"] == asked[0].split == "foreign-test"
    assert asked[0].directories == {"val": folder / "val", "foreign-test": elsewhere}
    assert (tmp_path / "run/eval/metrics_foreign-test.json").exists()


# ------------------------------------------------------------------------------------------------ the shapes
@pytest.fixture(scope="module")
def prepared(base, tmp_path_factory):
    config = config_of(base, tmp_path_factory.mktemp("data"))
    seen = []
    return config, prepare_data(config, make_mesh(), on_video=lambda *done: seen.append(done)), seen


def test_shapes_are_prepared_once(prepared):
    config, directories, seen = prepared
    assert list(directories) == ["train", "val", "test"]
    assert ("train", 2, 2) in seen and ("test", 1, 1) in seen
    before = len(seen)
    assert prepare_data(config, on_video=lambda *done: seen.append(done)) == directories and len(seen) == before


def test_only_the_splits_that_are_asked_for_are_made(base, tmp_path):
    run = Run(config_of(base, tmp_path / "data"))
    directories = run.directories(["val"])
    assert list(directories) == ["val"] and directories["val"].name.startswith("val-day-1x130s-")
    assert list((tmp_path / "data").iterdir()) == [directories["val"]]


def test_other_data_must_be_there(base, tmp_path):
    config = config_of(base, tmp_path, data__name="mad", data__fps=5.0)
    with pytest.raises(ConfigError, match=r"no train, val, test under .* of data.name 'mad': .* at 5.0 frames"):
        prepare_data(config)
    assert "no val under" in missing_data(config, ("val",))[0]


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


def test_a_split_has_its_queries_by_video(prepared):
    config, directories, _ = prepared
    store, queries = open_split(config, directories["train"], width=12)
    split = splits.Split.of("train", store, queries)
    assert list(split.queries) == list(dict.fromkeys(query.video_id for query in queries))
    assert sorted(query.query_id for query in split.all_queries) == sorted(query.query_id for query in queries)
    with pytest.raises(ValueError, match=r"the train split in .* has no queries"):
        splits.Split.of("train", store, [])


def test_a_thinned_split_keeps_some_of_every_video_and_kind():
    query = lambda video, number: Query(f"{video}/{number}", video, "a star", ((1.0, 2.0),) if number < 6 else ())
    split = Split("test", None, {video: [query(video, number) for number in range(8)] for video in ("a", "b")})
    assert split.thinned(0) is split.thinned(16) is split.thinned(99) is split
    some = split.thinned(8)
    assert {video: len(own) for video, own in some.queries.items()} == {"a": 4, "b": 4}
    assert sum(query.present for query in some.all_queries) == 6
    assert list(split.thinned(1).queries) == ["a"] and len(split.thinned(1).all_queries) == 1
