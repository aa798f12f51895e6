import numpy as np
import pytest

from revision_jax import config as configs
from revision_jax.data.annotations.queries import Query
from revision_jax.evaluation.predictions import Prediction
from revision_jax.evaluation.protocols import PROTOCOLS
from revision_jax.evaluation.scores import calibrate, compare, query_values, score
from revision_jax.metrics.cost import Cost
from revision_jax.search.settings import SearchSettings

NOTHING = np.zeros((0, 3))
COST = Cost(videos=1, queries=6, windows=4, frames=256, tokens_prefilled=900, tokens_decoded=60, seconds=3.0, pairs=24,
            all_pairs=24, video_s=1800.0, stored_frames=1800, flops=6e9)  # fmt: skip


def _case():
    """Present queries hit, missed, unanswered and failed; absent ones answered and not."""
    truths = [((10.0, 20.0),), ((10.0, 20.0), (50.0, 60.0)), ((10.0, 20.0),), ((10.0, 20.0),), (), ()]
    queries = [Query(f"q{i}", "v", f"event {i}", truth) for i, truth in enumerate(truths)]
    moments = [[[10, 20, 4.0]], [[30, 40, 2.0], [50, 60, 1.0]], [], [], [[0, 5, 0.5]], []]
    predictions = [Prediction(q.query_id, np.array(m, float).reshape(-1, 3)) for q, m in zip(queries, moments)]
    predictions[3] = Prediction("q3", NOTHING, "too long")
    return queries, predictions


def test_everything_of_a_method():
    queries, predictions = _case()
    answers = {"depth1": (predictions, COST)}
    calibration = calibrate(queries, answers, {"depth1": "inverse_mean_entropy"})
    scores = score(queries, answers, calibration)["depth1"]
    assert scores["recall"]["mad"]["R1@0.3"] == 25 and scores["recall"]["mad"]["R5@0.3"] == 50
    assert scores["failed"] == 1 and scores["present"] == 4
    low, high = scores["intervals"]["R1@0.3"]
    assert 0 <= low <= 25 <= high <= 100
    # One of three first moments is right; the absent query's can never be.
    reliable = scores["calibration"]["0.3"]
    assert reliable["answers"] == 3 and sum(row["answers"] for row in reliable["bins"]) == 3
    assert reliable["auroc"] == 100 and reliable["ece"] <= reliable["ece_uncalibrated"]
    assert "seconds" not in scores["cost"] and scores["measured"]["seconds_per_query"] == 0.5
    assert scores["cost"]["llm_tokens_per_query"] == 160 and scores["cost"]["frames_decoded_per_hour"] == 3600
    assert scores["cost"]["gflops_per_query"] == 1 and scores["measured"]["seconds_per_hour"] == 6


def test_sets_are_what_passes_the_threshold():
    queries, predictions = _case()
    values = query_values([p.moments for p in predictions], [q.moments for q in queries], 1.5, None)
    # One each of 1, 2, 1, 1, 0, 0 moments there; 1, 1, 0, 0, 0, 0 found.
    assert values["count_accuracy"].tolist() == [100, 0, 0, 0, 100, 100]
    np.testing.assert_array_equal(values["F1@0.5"], [100, 0, 0, 0, np.nan, np.nan])
    np.testing.assert_array_equal(values["R1@0.3"], [100, 0, 0, 0, np.nan, np.nan])


def test_the_released_protocol_skips_failures_and_rounds():
    queries, predictions = _case()
    predictions[0] = Prediction("q0", np.array([[10.0, 14.96, 4.0]]))  # IoU 0.496
    answers = {"depth1": (predictions, COST)}
    calibration = calibrate(queries, answers, {"depth1": "inverse_mean_entropy"})
    ours, released = (score(queries, answers, calibration, PROTOCOLS[name])["depth1"] for name in ("ours", "released"))
    assert (ours["present"], released["present"]) == (4, 3)
    assert ours["recall"]["ge"]["R1@0.5"] == 0 and released["recall"]["ge"]["R1@0.5"] == pytest.approx(100 / 3)


def test_every_protocol_is_a_valid_search():
    for protocol in PROTOCOLS.values():
        settings = SearchSettings.of(configs.load().search, **protocol.search)
        assert all(getattr(settings, name) == value for name, value in protocol.search.items()) and protocol.says


def test_comparisons_are_paired():
    queries, predictions = _case()
    worse = [Prediction(p.query_id, NOTHING) if p.query_id == "q0" else p for p in predictions]
    (row,) = compare(queries, {"depth1": (predictions, COST), "clip": (worse, COST)})
    assert row["methods"] == ["depth1", "clip"] and row["R1@0.3"]["difference"] == 25
    assert row["R5@0.3"]["interval"][0] >= 0
    (same,) = compare(queries, {"depth1": (predictions, COST), "clip": (predictions, COST)})
    assert same["mean_iou"] == {"difference": 0.0, "interval": [0.0, 0.0]}
    assert compare(queries, {"depth1": (predictions, COST)}) == []
