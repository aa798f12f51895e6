"""Mean and spread over runs of launch/local.sh."""

import json

import pytest

from revision_jax.benchmarks.seeds import spread, summarise


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def search_metrics(recall, sent):
    scores = lambda r: {"recall": {"mad": {"R1@0.1": r, "R1@0.3": r, "R5@0.3": r}}, "mean_iou": r / 2, "cost": {}}
    deeper = scores(recall + 1) | {"search": [{"sent": sent, "recall": 90.0}]}
    return {"before": {}, "trained_parameters": 1000, "methods": {"depth1": scores(recall), "depth2": deeper}}


def test_mean_and_sample_deviation_of_each_method_level_and_rank(tmp_path, capsys):
    for seed, recall in enumerate((40.0, 50.0)):
        folder = tmp_path / f"seed{seed}"
        write(folder / "long/eval/metrics.json", search_metrics(recall, 55.0))
        ranks = {"R@1": recall, "R@5": 60.0, "R@10": 70.0, "median_rank": 3.0, "chance_R@1": 0.5}
        retrieval = {"clips": 200, "queries": 9, "methods": {"depth1": ranks}}
        write(folder / "retrieval/eval/metrics.json", {"retrieval": retrieval})
    summary = summarise([tmp_path / "seed0", tmp_path / "seed1"])
    scores = summary["long"]["scores"]
    assert scores["depth1"]["R1@.3"] == {"mean": 45.0, "std": pytest.approx(50**0.5)}
    assert scores["depth2"]["mIoU"]["mean"] == 23.0
    assert summary["long"]["levels"]["depth2"] == [{"sent": spread([55.0, 55.0]), "recall": spread([90.0, 90.0])}]
    assert summary["retrieval"]["scores"]["depth1"]["R@1"]["mean"] == 45.0
    assert "unified" not in summary
    assert "45.0 ± 7.1" in capsys.readouterr().out


def test_a_seed_that_is_not_finished_is_named(tmp_path):
    write(tmp_path / "seed0/long/eval/metrics.json", search_metrics(40.0, 50.0))
    with pytest.raises(FileNotFoundError, match="seed1"):
        summarise([tmp_path / "seed0", tmp_path / "seed1"])


def test_one_seed_has_no_spread():
    assert spread([7.0]) == {"mean": 7.0, "std": 0.0}
