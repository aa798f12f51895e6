"""Annotations: round trip, and every kind of bad line named by file and line."""

import pytest

from revision_jax.data.annotations.queries import Query, check_queries, load_queries, save_queries

QUERIES = [
    Query("q0", "v0", "A red disk spins.", ((3.0, 9.5), (40.0, 44.0)), ((20.0, 25.0),)),
    Query("q1", "v1", "Ein grüner Kreis.", ()),
]


def test_round_trip(tmp_path):
    path = tmp_path / "queries.jsonl"
    save_queries(path, QUERIES)
    assert load_queries(path, {"v0": 44.0, "v1": 10.0}) == QUERIES
    assert [q.present for q in QUERIES] == [True, False]
    assert [p.name for p in tmp_path.iterdir()] == ["queries.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query_id": "q", "video_id": "v", "sentence": "s", "moments": [[5, 5]]}', "start < end"),
        ('{"query_id": "q", "video_id": "v", "sentence": "s", "moments": [[-1, 5]]}', "0 <= start"),
        ('{"query_id": "q", "video_id": "v", "sentence": "s", "moments": [[0, NaN]]}', "start < end"),
        ('{"query_id": "q", "video_id": "v", "sentence": "s", "moments": [[1, 2, 3]]}', "start_s, end_s"),
        ('{"query_id": "q", "video_id": "v", "sentence": "s", "moments": [7]}', "start_s, end_s"),
        ('{"query_id": "q", "video_id": "v", "sentence": " ", "moments": []}', "sentence"),
        ('{"query_id": 3, "video_id": "v", "sentence": "s", "moments": []}', "query_id"),
        ('{"query_id": "q", "video_id": "v", "sentence": "s"}', "missing keys"),
        ('{"query_id": "q", "video_id": "v", "sentence": "s", "moments": [], "start": 1}', "unknown keys"),
        ('{"query_id": "q"', "delimiter"),
        ("[]", "expected an object"),
    ],
)
def test_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "queries.jsonl"
    path.write_text("\n" + line + "\n")
    with pytest.raises(ValueError, match=message) as error:
        load_queries(path)
    assert f"{path}:2: " in str(error.value)


def test_queries_are_checked_against_each_other_and_the_videos():
    with pytest.raises(ValueError, match="'q0' occurs twice"):
        check_queries([QUERIES[0], QUERIES[0]])
    with pytest.raises(ValueError, match="'v1', which is not among"):
        check_queries(QUERIES, {"v0": 44.0})
    with pytest.raises(ValueError, match="ends after video 'v0'"):
        check_queries(QUERIES, {"v0": 43.0, "v1": 9.0})


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_queries(tmp_path / "none.jsonl")
