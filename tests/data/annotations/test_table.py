"""Queries as columns: the same queries as one by one, and what cannot be read at once is left to the exact reader."""

import json
import pickle

import numpy as np
import pytest

from revision_jax.data.annotations.queries import Query, check_queries, load_queries, save_queries
from revision_jax.data.annotations.table import QueryTable, SentencesById, read_table

QUERIES = [
    Query("q0", "v0", "A door opens.", ((1.0, 2.0), (5.0, 6.5)), ((3.0, 4.0),)),
    Query("q1", "v1", "a door  opens", ((0.0, 3.0),)),
    Query("ä2", "v0", "“Never”\u2028 happens", ()),
    Query("q3", "v0", "A DOOR opens", ((9.0, 9.5),)),
]
TABLE = QueryTable.of(QUERIES)


def test_a_table_holds_the_queries_it_was_made_of(tmp_path):
    save_queries(tmp_path / "q.jsonl", QUERIES)
    for table in (TABLE, read_table(tmp_path / "q.jsonl"), pickle.loads(pickle.dumps(TABLE))):
        assert list(table) == QUERIES and table[-1] == QUERIES[-1] and table[1:3] == QUERIES[1:3]
        assert [table.number(query.query_id) for query in QUERIES] == [0, 1, 2, 3]
        assert SentencesById(table)["ä2"] == QUERIES[2].sentence
    with pytest.raises(KeyError):
        TABLE.number("q9")
    assert TABLE.without(["q1"]) == [QUERIES[0], *QUERIES[2:]] and TABLE.without([]) is TABLE


def test_queries_that_say_the_same_are_found():
    assert TABLE.saying("A door opens").tolist() == [0, 1, 3]
    assert TABLE.videos_showing("a door opens.") == ["v0", "v1"] and TABLE.videos_showing(QUERIES[2].sentence) == []
    assert TABLE.showing_counts.tolist() == [2, 2, 0, 2] and TABLE.repeated.tolist() == [True, False, False, True]
    assert TABLE.about("v0").tolist() == [0, 2, 3] and not len(TABLE.about("v9"))


@pytest.mark.parametrize(
    "change",
    [
        {"moments": [[2.0, 1.0]]}, {"moments": [[1.0]]}, {"moments": [[1.0, float("inf")]]}, {"moments": ["ab"]},
        {"sentence": " "}, {"sentence": 3}, {"sentence": "half \ud800"}, {"video_id": "\ud800"}, {"query_id": "q0"},
        {"more": 1},
    ],
)  # fmt: skip
def test_what_is_wrong_is_left_to_the_reader_that_names_the_line(tmp_path, change):
    rows = [{"query_id": n, "video_id": "v", "sentence": "x", "moments": [[0, 1]]} for n in ("q0", "q1")]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (rows[0], rows[1] | change)))
    assert read_table(path) is None
    with pytest.raises(ValueError, match=r"q\.jsonl:2|occurs twice"):
        load_queries(path)
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")  # an empty line is unusual, and allowed
    assert read_table(path) is None and len(load_queries(path)) == 2


def test_videos_must_be_known_and_hold_their_moments():
    assert TABLE.inside({"v0": 9.5, "v1": 3.0}) and check_queries(TABLE, {"v0": 9.5, "v1": 3.0}) is TABLE
    np.testing.assert_array_equal(TABLE.durations({"v0": 9.5, "v1": 3.0}), [9.5, 3.0, 9.5, 9.5])
    for durations, message in (({"v0": 9.5}, "not among"), ({"v0": 9.0, "v1": 3.0}, "ends after")):
        assert not TABLE.inside(durations)
        with pytest.raises(ValueError, match=message):
            check_queries(TABLE, durations)
