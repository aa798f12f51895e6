"""Benchmarks' annotations as they are published: small files of the same form, invented content."""

import json
from pathlib import Path

import pytest

from revision_jax.data.annotations.queries import Query, load_queries, save_queries
from revision_jax.data.annotations.rows import accept
from revision_jax.data.builders.datasets import DATA_SETS, Given
from revision_jax.data.builders.mad import read_cone
from revision_jax.data.builders.vidchapters import read_vidchapters

PUBLIC = Path(__file__).parent / "public"
DRIVE, CLIP = "Zy9-xWvUtS8_210.0_360.0", "11111111-2222-4333-8444-555555555555"
ANNOTATION = "22222222-3333-4444-8555-666666666666"
# name -> (file, keys of the features, (query id, video, sentence, moments, seconds of the video) of the last row)
READ = {
    "charades": (
        "charades_sta_test.txt", [], ("7QXWD/4", "7QXWD", "this one ends before it starts.", ((9.0, 4.0),), None)
    ),
    "activitynet": (
        "val_2.json", ["aB3-xYz_k01", "v_QrS9tUvW0x2"],
        ("v_QrS9tUvW0x2/1", "v_QrS9tUvW0x2", "The sail is set.", ((10.6, 39.84),), 60.4),
    ),
    "tacos": (
        "tacos_test.json", ["s91-d02", "s90-d01"],
        ("s91-d02.avi/0", "s91-d02", "She slices a lemon.", ((10.0, 20.0),), 40.0),
    ),
    "qvhighlights": (
        "highlight_val_release.jsonl", [],
        ("4713", DRIVE, "the road seen through the windscreen", ((20.0, 26.0), (60.0, 62.0)), 150.0),
    ),
    "extremewhen": (
        "extremewhen.json", [],
        ("mN4pQrStUv5_q002", "mN4pQrStUv5", "When does the hall empty?", ((48.0, 58.0),), 60.0),
    ),
    "ego4d": ("nlq_val.json", [], (f"{ANNOTATION}_2", CLIP, "What did I paint?", ((0.0, 12.5),), 60.0)),
}  # fmt: skip


def read(name, file=None, keys=()):
    return DATA_SETS[name].read(Given(str(file or PUBLIC / READ[name][0]), keys or READ[name][1], {}))


@pytest.mark.parametrize("name", READ)
def test_every_row_is_read(name):
    found, expected = read(name), READ[name][2]
    row = found.rows[-1]
    assert not found.gaps and (row.query_id, row.video_id, row.sentence, row.moments, row.duration_s) == expected
    assert len({row.query_id for row in found.rows}) == len(found.rows) >= 2


def test_names_of_videos_are_those_of_the_features():
    assert [row.video_id for row in read("activitynet").rows] == ["aB3-xYz_k01"] * 2 + ["v_QrS9tUvW0x2"] * 2
    assert read("tacos", keys=["s90-d01.avi"]).rows[0].video_id == "s90-d01.avi"


def test_an_event_that_ends_before_it_starts_is_told_and_a_sentence_keeps_its_marks():
    queries, gaps = accept(read("charades").rows, {"K2B9Z": 31.0, "7QXWD": 30.0})
    assert [gap.kind for gap in gaps] == ["zero length"] and queries[-1].sentence == "person starts to read ## aloud."


def test_lines_of_another_form_are_told(tmp_path):
    (tmp_path / "a.txt").write_text("K2B9Z 0.0 6.9 no mark\n\nK2B9Z 0.0##too few\nK2B9Z 1.0 2.0##good\n")
    found = read("charades", tmp_path / "a.txt")
    assert [row.query_id for row in found.rows] == ["K2B9Z/4"] and "a.txt line 1: found" in found.gaps[0].detail
    (tmp_path / "t.json").write_text(
        json.dumps({"v": {"num_frames": 9, "fps": 0, "timestamps": [[0, 1]], "sentences": ["x"]}})
    )
    assert "fps is 0.0" in read("tacos", tmp_path / "t.json").gaps[0].detail
    (tmp_path / "a.json").write_text(json.dumps({"v": {"duration": 9, "timestamps": [[0, 1]], "sentences": []}}))
    assert "1 timestamps and 0 sentences" in read("activitynet", tmp_path / "a.json").gaps[0].detail


def test_several_relevant_windows_are_kept_and_clips_that_differ_are_told(tmp_path):
    rows = read("qvhighlights").rows
    assert rows[1].moments == ((0.0, 10.0), (82.0, 94.0), (120.0, 150.0)) and not read("qvhighlights").notes
    text = (PUBLIC / "highlight_val_release.jsonl").read_text().replace("[0, 16]", "[0, 18]")
    (tmp_path / "val.jsonl").write_text(text)
    assert read("qvhighlights", tmp_path / "val.jsonl").notes == [
        "val.jsonl: 1 rows whose relevant_clip_ids are not those of their relevant_windows, which are used"
    ]


def test_hidden_times_are_told():
    found = read("qvhighlights", PUBLIC / "highlight_test_release.jsonl")
    assert [row.moments for row in found.rows] == [(), ()] and "hides its times" in found.notes[0]


def test_extremewhen_as_an_object_or_jsonl(tmp_path):
    rows = json.loads((PUBLIC / "extremewhen.json").read_text())
    (tmp_path / "object.json").write_text(json.dumps({"questions": rows}))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read("extremewhen", tmp_path / "object.json") == read("extremewhen", tmp_path / "rows.jsonl")


def test_ids_of_the_original_annotations_are_kept(tmp_path):
    """Through the file of queries, and only where they are not our own."""
    ego4d = ("clip_uid", CLIP), ("annotation_uid", ANNOTATION), ("query_idx", 2)
    assert read("ego4d").rows[-1].ids == ego4d and "1 of its queries have no text" in read("ego4d").notes[0]
    cone = {"query_id": f"{ANNOTATION}_2", "query": "What?", "duration": 480, "clip_id": CLIP, "video_id": "v"}
    (tmp_path / "cone.jsonl").write_text(json.dumps(cone | {"timestamps": [0, 12.5]}))
    assert read_cone(tmp_path / "cone.jsonl", [CLIP]).rows[0].ids == ego4d
    chapter = {"qid": "q1", "query": ["Intro"], "vid": "12_abc", "duration": 90, "relevant_windows": [[0, 5]]}
    (tmp_path / "chapters.jsonl").write_text(json.dumps([chapter]))
    assert read_vidchapters(tmp_path / "chapters.jsonl", ["abc"]).rows[0].ids == (("vid", "12_abc"),)
    rows = [*read("qvhighlights").rows, *read("extremewhen").rows]
    queries, _ = accept(rows, {row.video_id: row.duration_s for row in rows})
    save_queries(tmp_path / "queries.jsonl", queries)
    again = load_queries(tmp_path / "queries.jsonl")
    assert again == queries and again[0].ids == (("qid", 4711),) and again[-1].ids == ()
    assert '"ids"' not in (tmp_path / "queries.jsonl").read_text().split("\n")[-2]
    with pytest.raises(ValueError, match="expected an object of text and whole numbers"):
        Query("q", "v", "x", (), ids=(("qid", 1.5),))
