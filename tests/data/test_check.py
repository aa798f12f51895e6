"""The check: every gap of a prepared data set is found and named; verdicts are kept."""

import json
import shutil

import numpy as np
import pytest

from revision_jax.data.annotations.gaps import Gap, in_order, load_gaps, save_gaps, summarise
from revision_jax.data.annotations.queries import Query
from revision_jax.data.check import check_splits, find_splits, known_gaps, save_verdict, sound_queries
from revision_jax.data.store.features import FeatureStore
from revision_jax.data.video.extraction import Encoder

QUERIES = [Query(f"q{n}", f"v{n // 2}", "It happens.", ((1.0, 3.0),)) for n in range(6)]


@pytest.fixture
def data(make_store, tmp_path):
    directory, _ = make_store(tmp_path / "train", queries=QUERIES)
    return directory


def found(directory, **options):
    return [(gap.kind, gap.video_id, gap.query_id) for gap in check_splits({"train": directory}, **options)["train"]]


def edit(directory, change):
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_a_sound_split_has_no_gaps(data):
    counts = []
    assert check_splits({"train": data}, on_video=lambda *c: counts.append(c)) == {"train": []}
    assert counts == [("train", 1, 3), ("train", 2, 3), ("train", 3, 3)]
    assert sound_queries(data, []) == QUERIES


def test_annotations(data):
    good = (data / "queries.jsonl").read_text()
    row = lambda **new: (
        json.dumps({"query_id": "n", "video_id": "v0", "sentence": "x", "moments": [[1, 2]]} | new) + "\n"
    )
    for bad, expected in (
        (row(query_id="q0"), ("duplicate id", "v0", "q0")),
        (row(moments=[[99, 105]]), ("outside video", "v0", "n")),
        (row(moments=[[-1, 5]]), ("outside video", "v0", "n")),
        (row(moments=[[5, 5]]), ("zero length", "v0", "n")),
        (row(video_id="v8"), ("video missing", "v8", "")),
        (row(moments="soon"), ("annotation", "", "")),
        (row(sentence=""), ("annotation", "v0", "n")),
        ('{"query_id": 1}\n', ("annotation", "", "")),
    ):
        (data / "queries.jsonl").write_text(good + bad)
        assert found(data) == [expected]
        assert sound_queries(data, check_splits({"train": data})["train"]) == QUERIES
    (data / "queries.jsonl").unlink()
    assert found(data) == [("annotation", "", "")]


def test_lengths_width_and_encoder(data):
    encoder = Encoder("fake", "0" * 64, 8, 2.0)
    assert found(data, encoder=encoder) == []
    for other in (Encoder("x", "1" * 64, 8, 2.0), Encoder("fake", "0" * 64, 9, 2.0), Encoder("fake", "0" * 64, 8, 1.0)):
        assert found(data, encoder=other) == [("encoder", "", "")]
    edit(data, lambda manifest: manifest["videos"]["v1"].update(duration_s=40.0))
    assert found(data) == [("duration", "v1", "")]


def test_damage_of_files(data):
    shard = next(data.rglob("*array_record-*"))
    content = shard.read_bytes()
    place = content.index(FeatureStore(data).read_all("v1").tobytes()[:64]) + 10
    shard.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])  # a flipped bit
    assert found(data) == [("damaged", "v1", "")] and found(data, deep=False) == []
    with pytest.raises(ValueError, match=r"damaged|cannot be read"):
        FeatureStore(data).read("v1", np.arange(10))
    shard.write_bytes(content[:-100])  # cut short
    assert found(data, deep=False) == [("damaged", "", "")]
    shard.unlink()
    assert found(data, deep=False) == [("damaged", "", "")]
    (data / "manifest.json").write_text("{")
    assert found(data) == [("damaged", "", "")]
    (data / "manifest.json").unlink()
    assert found(data) == [("unfinished", "", "")]


def test_not_finite_features_written_by_another_program(data, tmp_path, builder_parts, monkeypatch):
    from revision_jax.data.builders import parts

    array_builder, extractor, make_arrays = builder_parts
    arrays = make_arrays((70, 64))
    arrays["v1"][5, 2] = np.nan
    monkeypatch.setattr(parts, "first_non_finite", lambda _: None)
    array_builder(tmp_path / "d", arrays, extractor()).prepare()
    assert found(tmp_path / "d") == [("not finite", "v1", "")]


def test_leaks_by_name_and_by_content(data, make_store, tmp_path):
    make_store(tmp_path / "val", lengths=(50,))
    edit(tmp_path / "val", lambda manifest: manifest.update(videos={"v9": manifest["videos"].pop("v0")}))
    splits = {"train": data, "val": tmp_path / "val"}
    assert check_splits(splits, deep=False) == {"train": [], "val": []}
    shutil.copytree(tmp_path / "val", tmp_path / "test")
    edit(tmp_path / "test", lambda manifest: manifest.update(videos={"v1": manifest["videos"].pop("v9")}))
    gaps = check_splits(splits | {"test": tmp_path / "test"}, deep=False)
    assert [(gap.kind, gap.video_id) for gap in gaps["train"]] == [("split leak", "v1")]
    assert [(gap.kind, gap.video_id) for gap in gaps["val"]] == [("split leak", "v9")]
    assert [query.video_id for query in sound_queries(data, gaps["train"])] == ["v0", "v0", "v2", "v2"]


def test_verdicts_count_for_the_files_that_were_read(data):
    gap = Gap("not finite", "frame 3", "v1")
    save_verdict(data, [gap])
    assert known_gaps({"train": data})["train"] == [gap]
    (data / "queries.jsonl").write_text("")  # other files: the verdict says nothing about them
    assert known_gaps({"train": data})["train"] == []


def test_a_gap_about_everything_leaves_no_queries(data):
    with pytest.raises(ValueError, match="damaged: gone"):
        sound_queries(data, [Gap("damaged", "gone")])


def test_find_splits(data):
    assert find_splits(data) == {"train": data} == find_splits(data.parent)
    with pytest.raises(FileNotFoundError, match="no data set here"):
        find_splits(data / "features")


def test_gaps_are_kept_and_ordered(tmp_path):
    gaps = [Gap("zero length", "b", "v1", "q"), Gap("damaged", "a"), Gap("zero length", "b", "v1", "q")]
    assert [gap.kind for gap in in_order(gaps)] == ["damaged", "zero length"]
    assert summarise(gaps) == "1 damaged, 1 zero length" and summarise([]) == "no gaps"
    save_gaps(tmp_path / "g", gaps)
    assert load_gaps(tmp_path / "g") == gaps
    save_gaps(tmp_path / "g", [])
    assert load_gaps(tmp_path / "g") == [] and not (tmp_path / "g").exists()
    with pytest.raises(ValueError, match="unknown kind"):
        Gap("odd", "x")
