import json

import numpy as np

from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation.predictions import Prediction, PredictionLog
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
