"""Files of answers in the forms of benchmarks: what is written, what is read, and what is told."""

import json

import numpy as np
import pytest

from revision_jax import evaluate
from revision_jax.config import ConfigError
from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation.others import KEYS, read_answers, read_others
from revision_jax.evaluation.predictions import Prediction
from revision_jax.evaluation.scores import UNCALIBRATED, calibrate, compare, score
from revision_jax.evaluation.submissions import FORMS
from revision_jax.metrics.cost import Cost

EGO = lambda number: (("clip_uid", "c"), ("annotation_uid", "a-b"), ("query_idx", number))
QUERIES = [
    Query("7", "v", "a cat sleeps", ((0.0, 10.0), (20.0, 30.0)), ids=(("qid", 7), *EGO(0))),
    Query("x8", "v", "a dog's bark", ((5.0, 9.0),), ids=(("vid", "12_v"), *EGO(1))),
    Query("9", "w", "nothing found", ((5.0, 9.0),), ids=EGO(3)),
]
MOMENTS = [[[1.0, 9.0, 4.5], [21.0, 30.0, 2.0]], [[n, n + 4.0, 9.0 - n] for n in range(7)], []]
PREDICTIONS = [Prediction(q.query_id, np.array(m, float).reshape(-1, 3)) for q, m in zip(QUERIES, MOMENTS)]


def written(tmp_path, name, predictions=PREDICTIONS):
    path = tmp_path / f"mine{FORMS[name].suffix}"
    path.write_text(FORMS[name].text(QUERIES, predictions))
    return path


def test_what_moment_detr_reads(tmp_path):
    """The benchmark's own ids with their types, ranked windows with falling scores, and one window at least."""
    rows = [json.loads(line) for line in written(tmp_path, "moment_detr").read_text().splitlines()]
    assert rows[0] == {
        "qid": 7, "query": "a cat sleeps", "vid": "v", "pred_relevant_windows": [[1.0, 9.0, 4.5], [21.0, 30.0, 2.0]]
    }  # fmt: skip
    assert (rows[1]["qid"], rows[1]["vid"]) == ("x8", "12_v") and len(rows[1]["pred_relevant_windows"]) == 7
    assert rows[2]["pred_relevant_windows"] == [[0.0, 0.0, 0.0]]
    # A ranking that confidences do not follow keeps its order in an evaluator that sorts by score.
    other = [Prediction("7", np.array([[1.0, 9.0, 2.0], [21.0, 30.0, 4.5]])), *PREDICTIONS[1:]]
    row = json.loads(written(tmp_path, "moment_detr", other).read_text().splitlines()[0])
    assert row["pred_relevant_windows"] == [[1.0, 9.0, 1.0], [21.0, 30.0, 0.5]]


def test_what_ego4d_reads(tmp_path):
    content = json.loads(written(tmp_path, "ego4d_nlq").read_text())
    assert (content["version"], content["challenge"]) == ("1.0", "ego4d_nlq_challenge")
    assert [len(row["predicted_times"]) for row in content["results"]] == [5, 5, 5]
    row = content["results"][0]
    assert (row["clip_uid"], row["annotation_uid"], row["query_idx"]) == ("c", "a-b", 0)
    assert row["predicted_times"] == [[1.0, 9.0], [21.0, 30.0], *[[0.0, 0.0]] * 3]
    with pytest.raises(
        ConfigError, match=r"needs clip_uid, annotation_uid, query_idx of every query; 1 have none.*'q'"
    ):
        FORMS["ego4d_nlq"].check([*QUERIES, Query("q", "v", "x", ())], "--submission ego4d_nlq")
    FORMS["moment_detr"].check([Query("q", "v", "x", ())], "--submission moment_detr")


def test_what_cones_evaluator_of_mad_reads(tmp_path):
    rows = [json.loads(line) for line in written(tmp_path, "cone").read_text().splitlines()]
    assert [row["query_id"] for row in rows] == ["7", "x8", "9"] and rows[2]["predicted_times"] == [[0.0, 0.0, 0.0]]
    number = [Query("7", "v", "a cat", ((0.0, 1.0),), ids=(("query_id", 7),))]
    assert json.loads(FORMS["cone"].text(number, PREDICTIONS[:1]))["query_id"] == 7


def test_the_flag_knows_every_form():
    assert tuple(FORMS) == evaluate.SUBMISSIONS and set(FORMS) == set(KEYS)


@pytest.mark.parametrize("name, kept", [("moment_detr", 7), ("cone", 7), ("ego4d_nlq", 5)])
def test_what_is_written_is_read_again(name, kept, tmp_path):
    found = read_answers(written(tmp_path, name), QUERIES)
    assert (found.missing, found.unknown, found.unsorted) == (0, 0, 0)
    assert [len(p.moments) for p in found.predictions] == [2, kept, 0]
    for own, read in zip(PREDICTIONS, found.predictions):
        np.testing.assert_array_equal(own.moments[:kept, :2], read.moments[:, :2])


def test_missing_and_unknown_queries_are_counted_and_told(tmp_path, caplog):
    rows = [{"qid": 7, "pred_relevant_windows": [[1, 9, 0.1], [21, 30, 0.4]]}, {"qid": "stranger"}]
    rows[1]["pred_relevant_windows"] = [[1, 2]]
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level("INFO", "revision_jax"):
        found = read_others([str(path)], QUERIES)["file theirs"]
    assert found.counts() | {"sha256": ""} == {"missing": 2, "unknown": 1, "unsorted": 1, "sha256": ""}
    assert "1 of 3 queries answered, 2 are missing and count as misses, 1 rows are about no query" in caplog.text
    own = {"depth1": (PREDICTIONS, Cost(videos=1, queries=3, seconds=1.0, video_s=60.0))}
    both = own | {"file theirs": (found.predictions, None)}
    calibration = calibrate(QUERIES, own, {"depth1": "inverse_mean_entropy"}) | {"file theirs": UNCALIBRATED}
    scores = score(QUERIES, both, calibration)["file theirs"]
    assert scores["recall"]["mad"]["R1@0.3"] == pytest.approx(100 / 3) and scores["cost"] == {}
    assert scores["average_precision"]["mAP@0.5"] == pytest.approx(100 / 3)
    (row,) = compare(QUERIES, both, pairs=[("depth1", "file theirs")])
    assert row["methods"] == ["depth1", "file theirs"] and row["R5@0.3"]["difference"] == pytest.approx(100 / 3)
    assert row["R1@0.3"]["difference"] == 0 and row["R5@0.3"]["interval"][0] >= 0


@pytest.mark.parametrize("text, words", [
    ('{"qid": 7, "moments": []}', r"neither a jsonl with pred_relevant_windows \(moment_detr\) or"),
    ('{"qid": 7, "pred_relevant_windows": [[1, 2, 3, 4]]}', r"row 1: found \[1, 2, 3, 4\]; expected \[start_s, end_s"),
    ('{"qid": 7, "pred_relevant_windows": [[1, NaN, 3]]}', r"row 1: found \[1, nan, 3\]; expected finite numbers"),
    ('{"pred_relevant_windows": []}', r"row 1: no field 'qid'"),
    ('[{"qid": 7, "pred_relevant_windows": []}, {"qid": "7", "pred_relevant_windows": []}]', r"'7' is answered twice"),
    ('{"qid": 1, "pred_relevant_windows": []}', r"answers none of the 3 queries; it has '1', expected ids such as '7'"),
    ("{", r"neither JSON"),
])  # fmt: skip
def test_a_file_that_cannot_be_read_is_told_by_its_row(text, words, tmp_path):
    (tmp_path / "f.jsonl").write_text(text)
    with pytest.raises(ValueError, match=rf"f\.jsonl: .*{words}"):
        read_answers(tmp_path / "f.jsonl", QUERIES)


def test_files_of_one_name_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="different names"):
        read_others([str(tmp_path / "a/f.jsonl"), str(tmp_path / "b/f.json")], QUERIES)
