"""Annotations of strangers: odd lines, encodings, ids and numbers, told by name or read as they are."""

import json

import pytest

from revision_jax.data.annotations.gaps import Gap, load_gaps, save_gaps
from revision_jax.data.annotations.queries import Query, load_queries, save_queries
from revision_jax.data.annotations.rows import accept, read_json
from revision_jax.data.batches.negatives.mined import read_answers
from revision_jax.data.builders.folder import find_videos, read_queries
from revision_jax.data.builders.mad import read_mad
from revision_jax.data.builders.msrvtt import read_msrvtt
from revision_jax.data.builders.parts import Parts
from revision_jax.data.builders.vidchapters import read_vidchapters
from revision_jax.data.store.manifest import Manifest, Shard, VideoInfo
from tests.test_text import INSIDE


def line(**changes):
    row = {"query_id": "q", "video_id": "v", "sentence": "a star spins", "moments": [[1, 2]]}
    return json.dumps(row | changes, ensure_ascii=False)


def test_what_is_written_is_read_again(tmp_path):
    queries = [Query("q0", "v", f"a{INSIDE}b", ((1.0, 2.0),)), Query("q\u20281", f"v{INSIDE[-1]}", "\ufeffc", ())]
    save_queries(tmp_path / "queries.jsonl", queries)
    assert load_queries(tmp_path / "queries.jsonl") == queries
    rows = read_queries(tmp_path / "queries.jsonl").rows
    assert [row.sentence for row in rows] == [query.sentence for query in queries]
    gaps = [Gap("annotation", f"x{INSIDE}y"), Gap("annotation", "half \ud800", "v", "q")]
    save_gaps(tmp_path / "gaps.jsonl", gaps)
    assert load_gaps(tmp_path / "gaps.jsonl") == gaps
    answers = json.dumps({"query_id": f"q{INSIDE}", "moments": [[1, 2, 0.5]]}, ensure_ascii=False)
    (tmp_path / "mined.jsonl").write_text("\ufeff" + answers + "\n", encoding="utf-8")
    asked = [Query(f"q{INSIDE}", "v", "c", ())]
    assert read_answers(tmp_path / "mined.jsonl", asked, {"v": 9.0}) == {f"q{INSIDE}": [[1, 2, 0.5]]}


def test_a_byte_order_mark_in_json_and_jsonl(tmp_path):
    for text in (line() + "\n" + line(query_id="r") + "\n", "[" + line() + "," + line(query_id="r") + "]"):
        path = tmp_path / "queries.jsonl"
        path.write_text("\ufeff" + text, encoding="utf-8")
        assert [row.query_id for row in read_queries(path).rows] == ["q", "r"]


def test_another_encoding_is_refused_by_name(tmp_path):
    path = tmp_path / "queries.jsonl"
    path.write_bytes(line(sentence="ein grüner Kreis").encode("latin1"))
    for read in (read_queries, load_queries, read_json, lambda path: read_answers(path, (), {})):
        with pytest.raises(ValueError, match=rf"{path}: found byte 0xfc at \d+ \(line 1\); expected UTF-8"):
            read(path)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_tables_with_commas_semicolons_or_tabs(tmp_path, mark, start):
    path = tmp_path / "test.csv"
    rows = [["key", "video_id", "sentence"], ["0", "v1", f'"a man, a dog; a\u2028ball{mark}"'], ["1", "v2", "two"]]
    path.write_text(start + "\r\n".join(mark.join(row) for row in rows) + "\r\n", encoding="utf-8")
    found = read_msrvtt(None, path).rows
    assert [(row.video_id, row.sentence) for row in found] == [
        ("v1", " ".join(f"a man, a dog; a ball{mark}".split())),
        ("v2", "two"),
    ]


def test_a_table_that_cannot_be_read_is_told(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("video|sentence\nv|s\n")
    with pytest.raises(ValueError, match=r"no column video_id in its first line, 'video\|sentence'.*semicolons"):
        read_msrvtt(None, path)
    path.write_text("video_id,sentence\nv1,a man, a dog\n")
    with pytest.raises(ValueError, match="row 2 has another number of columns"):
        read_msrvtt(None, path)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"video_id": "a\0b"}, "without control characters"),
        ({"query_id": "a\nb"}, "without control characters"),
        ({"video_id": "\ud800"}, "without control characters"),
        ({"moments": [[0, 10**400]]}, "too large"),
        ({"moments": 7}, "not iterable"),
    ],
)
def test_rows_that_no_query_can_be_are_gaps(tmp_path, changes, found):
    path = tmp_path / "queries.jsonl"
    path.write_text(json.dumps(json.loads(line()) | changes) + "\n")
    annotations = read_queries(path)
    assert not annotations.rows and [gap.kind for gap in annotations.gaps] == ["annotation"]
    assert found in annotations.gaps[0].detail


def test_half_a_character_in_a_sentence_is_a_gap(tmp_path):
    path = tmp_path / "queries.jsonl"
    path.write_text(json.dumps(json.loads(line()) | {"sentence": "a \ud800"}) + "\n")
    queries, gaps = accept(read_queries(path).rows, {"v": 10.0})
    assert not queries and [(gap.kind, gap.query_id) for gap in gaps] == [("annotation", "q")]
    save_gaps(tmp_path / "gaps.jsonl", gaps)


def test_ids_that_look_like_paths_stay_within_the_folder(tmp_path):
    parts = Parts(tmp_path / "parts", 8)
    for video_id in ("..", "../x", "/etc/passwd", "a/../../b", "x" * 3000, "ü" * 200):
        path = parts.path(video_id)
        assert path.parent == tmp_path / "parts" and path.resolve().parent == path.parent and len(path.name) < 250
    assert parts.path("x" * 3000) != parts.path("x" * 3001)


@pytest.mark.parametrize("said", [1e308, float("inf"), float("nan"), -1.0, 0.0])
def test_absurd_lengths_are_told_in_a_short_line(tmp_path, said):
    path = tmp_path / "mad.json"
    row = {"movie": "m", "sentence": "x", "timestamps": [1, 1e308], "movie_duration": said}
    path.write_text(json.dumps({"q": row}))
    annotations = read_mad(path)
    gaps = [*annotations.gaps, *accept(annotations.rows, {"m": 100.0})[1]]
    assert {gap.kind for gap in gaps} == ({"duration", "outside video"} if said == 1e308 else {"annotation"})
    assert all(len(gap.detail) < 200 for gap in gaps)


def test_deep_json_is_refused_by_name(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match=f"{path}.*nested too deep"):
        read_json(path)
    (tmp_path / "manifest.json").write_text('{"a":' * 100_000)
    with pytest.raises(ValueError, match=r"manifest.json.*nested too deep"):
        Manifest.load(tmp_path)


KINDS = {
    ("videos", "v", "num_frames"): "1", ("videos", "v", "duration_s"): None, ("shards", 0, "records"): 1.5,
    ("shards", 0, "bytes"): [1], ("width",): 10**30, ("chunk_frames",): float("inf"), ("encoder",): 5, ("shards",): [],
}  # fmt: skip


@pytest.mark.parametrize("place", KINDS, ids=str)
def test_a_manifest_of_other_kinds_of_values_is_told(tmp_path, place):
    info = {"v": VideoInfo(10, 5.0, 0, "0" * 64)}
    Manifest("e", "0" * 64, 2.0, 8, "float16", 64, (Shard("x", 1, 1),), info).save(tmp_path)
    inner = content = json.loads((tmp_path / "manifest.json").read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = KINDS[place]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{tmp_path}/manifest.json: .*{place[-1]}"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("content", [5, None, "x", [1], {}, {"sentences": 5}, {"sentences": "x"}], ids=str)
def test_annotations_that_hold_no_rows_are_told(tmp_path, content):
    (tmp_path / "a.json").write_text(json.dumps(content))
    (tmp_path / "s.csv").write_text("video_id\nv\n")
    with pytest.raises(ValueError, match=rf"{tmp_path}/a.json: found .*; expected"):
        read_msrvtt(tmp_path / "a.json", tmp_path / "s.csv")
    if not isinstance(content, list):
        with pytest.raises(ValueError, match=rf"{tmp_path}/a.json: found .*; expected a list of rows"):
            read_vidchapters(tmp_path / "a.json", ["v"])


@pytest.mark.parametrize("path", ["../other/x", "/etc/passwd", "features/../../x", "a\0b"])
def test_a_manifest_names_no_shard_elsewhere(path):
    info = {"v": VideoInfo(10, 5.0, 0, "0" * 64)}
    with pytest.raises(ValueError, match="lies elsewhere"):
        Manifest("e", "0" * 64, 2.0, 8, "float16", 64, (Shard(path, 1, 1),), info)
    for lasts_s in (float("nan"), float("inf"), 0.0):
        with pytest.raises(ValueError, match="expected a time > 0"):
            Manifest("e", "0" * 64, 2.0, 8, "float16", 64, (), {"v": VideoInfo(10, lasts_s, 0, "0" * 64)})


def test_names_of_files_that_are_no_text_are_told(tmp_path):
    (tmp_path / "good.mp4").write_bytes(b"x")
    for name in (b"bad\xff.mp4", b"line\nend.mp4"):
        (tmp_path / name.decode("utf-8", "surrogateescape")).write_bytes(b"x")
    files, gaps = find_videos(tmp_path)
    assert list(files) == ["good"] and [gap.kind for gap in gaps] == ["video unreadable"] * 2
    save_gaps(tmp_path / "gaps.jsonl", gaps)
