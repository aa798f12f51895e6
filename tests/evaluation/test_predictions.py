import json

import numpy as np
import pytest

from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation.predictions import Prediction, PredictionLog
from revision_jax.evaluation.row_log import RowLog
from revision_jax.metrics.cost import Cost

QUERIES = [Query(f"q{i}", "v", f"event {i}", ((1.0, 2.0),) if i else ()) for i in range(3)]
ANSWERS = [Prediction(q.query_id, np.array([[1.23456, 2.0, 0.1 + i]])) for i, q in enumerate(QUERIES)]


def test_a_log_continues_where_it_ended(tmp_path):
    path = tmp_path / "eval" / "predictions.jsonl"
    log = PredictionLog(path, "a")
    log.append("depth1", QUERIES, ANSWERS, Cost(videos=1, queries=3, seconds=0.5))
    log.append("depth0", QUERIES, [Prediction(q.query_id, np.zeros((0, 3)), "too long") for q in QUERIES], Cost())
    again = PredictionLog(path, "a")
    for method in ("depth1", "depth0"):
        (before, cost), (after, same) = log.get(method, "v"), again.get(method, "v")
        assert cost == same
        for a, b in zip(before, after):
            assert (a.query_id, a.error) == (b.query_id, b.error)
            np.testing.assert_array_equal(a.moments, b.moments)
    assert again.get("clip", "v") is None
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[1]["moments"] == [[1.235, 2.0, 0.1]] and rows[1]["truth"] == [] and rows[-2]["error"] == "too long"


def test_a_kill_at_any_byte_leaves_whole_videos_only(tmp_path):
    path = tmp_path / "predictions.jsonl"
    log = PredictionLog(path, "a")
    log.append("depth1", QUERIES, ANSWERS, Cost())
    first = path.stat().st_size
    log.append("depth0", QUERIES, ANSWERS, Cost())
    whole = path.read_bytes()
    for size in [*range(0, first, 37), *range(first, len(whole), 11)]:
        path.write_bytes(whole[:size])
        resumed = PredictionLog(path, "a")
        assert resumed.get("depth0", "v") is None or size >= len(whole) - 1
        if size >= first:
            assert len(resumed.get("depth1", "v")[0]) == 3
        if resumed.get("depth0", "v") is None:
            resumed.append("depth0", QUERIES, ANSWERS, Cost())
        if size >= first:
            assert path.read_bytes() == whole


def test_another_model_starts_a_new_file(tmp_path):
    path = tmp_path / "predictions.jsonl"
    PredictionLog(path, "a").append("depth1", QUERIES, ANSWERS, Cost())
    assert PredictionLog(path, "b").get("depth1", "v") is None
    assert len(path.read_text().splitlines()) == 1


# ------------------------------------------------------------------------------------------------- damage
@pytest.fixture
def whole(tmp_path):
    """A log of two groups, and its lines."""
    log = PredictionLog(tmp_path / "predictions.jsonl", "a")
    log.append("depth1", QUERIES, ANSWERS, Cost())
    log.append("depth0", QUERIES, ANSWERS, Cost())
    return log.path, log.path.read_text().split("\n")[:-1]


def edited(line, **changes):
    return json.dumps(json.loads(line) | changes)


DAMAGE = {
    "another valid row": lambda lines: [*lines[:2], lines[1], *lines[3:]],
    "moments moved": lambda lines: [lines[0], edited(lines[1], moments=[[2.0, 3.0, 0.1]]), *lines[2:]],
    "another truth": lambda lines: [lines[0], edited(lines[1], truth=[[5.0, 6.0]]), *lines[2:]],
    "another cost": lambda lines: [*lines[:4], lines[4].replace('"seconds": 0', '"seconds": 1'), *lines[5:]],
    "a foreign object": lambda lines: [*lines[:2], '{"a": 1}', *lines[2:4], '{"cost": 3, "sha256": "x"}', *lines[5:]],
    "a row less": lambda lines: [*lines[:2], *lines[3:]],
    "a garbled row": lambda lines: [*lines[:2], lines[2].replace('"', "'"), *lines[3:]],
    "a row that is no object": lambda lines: [*lines[:2], "[1, 2]", *lines[3:]],
    "bytes that are no text": lambda lines: [*lines[:2], lines[2][:20] + "\udcff", *lines[3:]],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_group_is_told_and_asked_again_and_the_others_stay(whole, damage, caplog):
    path, lines = whole
    path.write_bytes("\n".join([*DAMAGE[damage](lines), ""]).encode("utf-8", "surrogateescape"))
    log = PredictionLog(path, "a")
    assert log.get("depth1", "v") is None and len(log.get("depth0", "v")[0]) == 3
    assert f"{path}:" in caplog.text and "left out" in caplog.text
    log.append("depth1", QUERIES, ANSWERS, Cost())
    assert path.read_text().split("\n")[:-1] == [lines[0], *lines[5:], *lines[1:5]]


def test_a_cut_last_line_is_told(whole, caplog):
    path, lines = whole
    path.write_text("\n".join(lines)[:-9])
    assert PredictionLog(path, "a").get("depth0", "v") is None
    assert f"{path}:9: this last line is cut short" in caplog.text


def test_groups_of_another_evaluation_do_not_count(whole, tmp_path, caplog):
    path, lines = whole
    other = tmp_path / "other.jsonl"
    PredictionLog(other, "b")
    with other.open("a") as file:
        file.write("\n".join(lines[1:]) + "\n")
    assert PredictionLog(other, "b").get("depth1", "v") is None and "are not what was written" in caplog.text
    caplog.clear()
    assert PredictionLog(path, "b").get("depth1", "v") is None and "belongs to another evaluation" in caplog.text


def test_answers_to_questions_survive_damage(tmp_path, caplog):
    path = tmp_path / "questions.jsonl"
    log = RowLog(path, "a")
    for row in range(3):
        log.append("presence", "trained", [[row, 0]])
    lines = path.read_text().split("\n")[:-1]
    again = lambda text: path.write_text(text) and RowLog(path, "a").get("presence", "trained")
    assert again("\n".join(lines) + "\n") == [[0, 0], [1, 0], [2, 0]] and not caplog.text
    assert again("\n".join(lines)[:-4]) == [[0, 0], [1, 0]] and ":4: this last line is cut short" in caplog.text
    # Behind a hole nothing counts: it would be taken for the answers of other rows.
    assert again("\n".join([*lines[:2], "{", lines[3], ""])) == [[0, 0]]
    assert "rows from 2 follow 1 rows" in caplog.text
    assert again("\n".join([lines[0], lines[1].replace("[0.0, ", "[7.0, "), lines[2], ""])) == []
    assert again("\n".join([*lines[:2], lines[1], ""])) == [[0, 0]]
    assert again('{"a": 1}\n' + "\n".join(lines[1:])) == [] and path.read_text() == lines[0] + "\n"
