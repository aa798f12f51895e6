"""A run's evaluation: what it leaves, that it goes on after a kill, and that no query is lost."""

import hashlib
import json
import math
import re
import shutil
from pathlib import Path

import pytest

from revision_jax import evaluate
from revision_jax.evaluation.evaluate import evaluate as evaluate_run
from revision_jax.evaluation.options import Options
from revision_jax.report.table import level_rows, print_table
from revision_jax.runs.run import Run
from revision_jax.search.clip_baseline import ClipRetrieval
from revision_jax.search.searcher import Searcher

MEASURED = ("measured", "compilations")  # seconds, memory, and what this process compiled


def _scores(metrics):
    """What must not depend on how the evaluation went: all but `MEASURED`, as it stands in the file."""
    strip = lambda value: (
        {k: strip(v) for k, v in value.items() if k not in MEASURED} if isinstance(value, dict) else value
    )
    return json.dumps(json.loads(json.dumps(strip(dict(metrics))).replace("NaN", "null")), sort_keys=True)


def _copy(run, folder):
    return Path(shutil.copytree(run.workdir, folder / "run"))


def test_metrics_hold_everything(trained_run):
    metrics = json.loads((trained_run.workdir / "eval/metrics.json").read_text())
    assert _scores(metrics) == _scores(trained_run.metrics)
    assert set(metrics["methods"]) == {"depth1", "depth0", "clip"} and set(metrics["before"]) == {"depth1", "depth0"}
    assert metrics["present"] > 0 and metrics["absent"] > 0 and metrics["videos"] == 2
    for method in [*metrics["methods"].values(), *metrics["before"].values()]:
        assert method["queries"] == metrics["queries"] == metrics["present"] + metrics["absent"]
        assert set(method["recall"]) == {"mad", "ge"} and len(method["recall"]["mad"]) == 20  # 4 ranks, 5 IoU
        assert {"precision", "recall", "f1", "false_alarm_rate", "auroc"} <= set(method["rejection"])
        assert method["measured"]["seconds_per_query"] > 0
        assert len(method["intervals"]["R1@0.3"]) == 2 and set(method["calibration"]) == {"0.1", "0.3", "0.5"}
        assert 0 <= method["sets"]["count_accuracy"] <= 100
    assert metrics["methods"]["depth1"]["cost"]["windows"] > metrics["methods"]["depth0"]["cost"]["windows"] == 2
    assert metrics["methods"]["depth1"]["threshold"] == metrics["calibration"]["depth1"]["threshold"]
    assert (
        metrics["train_steps"] == 4
        and metrics["measured"]["device"]["count"] == 1
        and metrics["measured"]["peak_host_gib"] > 0
    )
    assert metrics["protocol"]["name"] == "ours" and metrics["compared"][0]["methods"] == ["depth1", "clip"]
    cost = metrics["methods"]["depth1"]["cost"]
    assert cost["frames_decoded_per_hour"] == pytest.approx(3600, rel=0.02)  # one frame a second
    assert cost["gflops_per_query"] > 0 and cost["llm_tokens_per_query"] > cost["frames_to_llm_per_query"] > 0


def test_metrics_name_the_data_that_was_asked(trained_run):
    assert trained_run.metrics["data"].keys() == {"val", "test"}
    for split, found in trained_run.metrics["data"].items():
        files = [(trained_run.directories[split] / name).read_bytes() for name in ("manifest.json", "queries.jsonl")]
        ids = [json.loads(line)["query_id"] for line in files[1].decode().split("\n") if line]
        assert found == hashlib.sha256(b"".join([*files, "\n".join(ids).encode()])).hexdigest()


def test_programs_compile_once_a_shape(trained_run):
    compilations = trained_run.metrics["compilations"]
    assert compilations["train_step"] == {"programs": 1, "shapes": 1}
    # Both depths, after and before training, val and test: one program for each depth.
    assert compilations["search"] == {"programs": 2, "shapes": 2}


def test_predictions_hold_every_query_of_every_method(trained_run):
    lines = [json.loads(line) for line in (trained_run.workdir / "eval/predictions.jsonl").read_text().splitlines()]
    rows = [line for line in lines if "query_id" in line]
    assert len(rows) == 3 * trained_run.metrics["queries"]
    assert len({(row["method"], row["query_id"]) for row in rows}) == len(rows)
    for row in rows:
        assert all(0 <= start < end <= 130.1 for start, end, _ in row["moments"])
        assert [m[2] for m in row["moments"]] == sorted((m[2] for m in row["moments"]), reverse=True)


def test_the_report_stands_alone(trained_run):
    page = (trained_run.workdir / "eval/report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page)
    assert "before training" in page and "CLIP frame retrieval" in page and "learning_rate" in page
    for picture in ("loss", "recall", "timelines"):
        assert (trained_run.workdir / f"eval/{picture}.png").stat().st_size > 5000


def test_a_killed_evaluation_goes_on(trained_run, tmp_path, monkeypatch):
    workdir = _copy(trained_run, tmp_path)
    shutil.rmtree(workdir / "eval")
    searched, search = [], Searcher.search

    def dies(self, *args, **kwargs):
        if len(searched) == 3:
            raise KeyboardInterrupt
        searched.append(1)
        return search(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Searcher, "search", dies)
        evaluate_run(Run.load(workdir))
    assert not (workdir / "eval/metrics.json").exists() and not (workdir / "eval/calibration.json").exists()

    def counts(self, *args, **kwargs):
        searched.append(1)
        return search(self, *args, **kwargs)

    monkeypatch.setattr(Searcher, "search", counts)
    metrics = evaluate_run(Run.load(workdir))
    # 2 models x 2 splits x 2 videos x 2 depths, none of them twice.
    assert len(searched) == 16
    assert _scores(metrics) == _scores(trained_run.metrics)


def test_a_finished_evaluation_searches_nothing_again(trained_run, tmp_path, monkeypatch):
    workdir = _copy(trained_run, tmp_path)
    monkeypatch.delattr(Searcher, "search")
    metrics = evaluate_run(Run.load(workdir))
    assert _scores(metrics) == _scores(trained_run.metrics)
    assert metrics["compilations"]["train_step"] == {"programs": 1, "shapes": 1}


def test_another_split_has_its_own_files(trained_run, tmp_path, monkeypatch):
    workdir = _copy(trained_run, tmp_path)
    before = (workdir / "eval/metrics.json").read_bytes()
    metrics = evaluate_run(Run.load(workdir), Options(split="val"))
    assert metrics["split"] == "val"
    assert (workdir / "eval/metrics_val.json").exists() and (workdir / "eval/report_val.html").exists()
    assert (workdir / "eval/metrics.json").read_bytes() == before


def test_a_query_that_cannot_be_asked_is_a_miss(trained_run, tmp_path, monkeypatch):
    directories = {}
    for split in ("val", "test"):
        directories[split] = Path(shutil.copytree(trained_run.directories[split], tmp_path / split))
    path = directories["test"] / "queries.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    broken = next(row for row in rows if row["moments"])
    broken["sentence"] = "a red circle " * 40
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("revision_jax.runs.run.prepare_data", lambda *_, **__: directories)
    workdir = _copy(trained_run, tmp_path)
    metrics = evaluate_run(Run.load(workdir))
    assert metrics["methods"]["depth1"]["failed"] == 1 and metrics["methods"]["clip"]["failed"] == 0
    assert metrics["queries"] == trained_run.metrics["queries"]
    lines = [json.loads(line) for line in (workdir / "eval/predictions.jsonl").read_text().splitlines()]
    (row,) = [r for r in lines if r.get("query_id") == broken["query_id"] and r["method"] == "depth1"]
    assert row["moments"] == [] and "prompt.max_text_tokens" in row["error"]


def test_clip_is_scored_with_the_variant_chosen_on_val(trained_run):
    chosen = trained_run.metrics["calibration"]["clip"]
    ClipRetrieval(chosen["variant"], chosen["length_s"])  # raises on an unknown one
    assert math.isfinite(chosen["threshold"])


def test_each_split_by_itself_keeps_its_answers(trained_run, tmp_path, monkeypatch):
    """val, test, val: nothing of the first is asked again."""
    workdir = _copy(trained_run, tmp_path)
    shutil.rmtree(workdir / "eval")
    first = evaluate_run(Run.load(workdir), Options(split="val"))
    evaluate_run(Run.load(workdir), Options(split="test"))
    monkeypatch.delattr(Searcher, "search")
    assert _scores(evaluate_run(Run.load(workdir), Options(split="val"))) == _scores(first)


@pytest.fixture(scope="module")
def evaluated(evaluated_long, tmp_path_factory):
    """A copy of the run of stage 2 with its metrics: its own questions, and every depth of the search."""
    workdir, metrics = evaluated_long
    return Path(shutil.copytree(workdir, tmp_path_factory.mktemp("evaluated") / "long")), metrics


def test_a_long_run_is_searched_at_every_depth_with_its_dense_run(chain, evaluated, tmp_path):
    _, metrics = evaluated
    deeper = {"depth2", "depth3", "depth2_bottom_up", "depth3_bottom_up", "depth3_top_down_rescaled", "depth3_fused"}
    deeper |= {"depth1_retrieve_then_ground", "depth3_cascade"}
    assert set(metrics["methods"]) == {"depth1", "depth0", "clip"} | deeper == set(metrics["calibration"])
    assert metrics["served"] == "depth3_fused" and metrics["stage"] == "long" and metrics["version"] == 5
    # The dense level is the dense run's own model.
    dense = shutil.copytree(chain.folder / "dense", tmp_path / "dense")
    alone = evaluate_run(Run.load(dense), Options(out="eval-alone", methods=("depth1", "depth0")))
    for method in ("depth1", "depth0"):
        assert metrics["methods"][method]["recall"] == alone["methods"][method]["recall"]
        assert metrics["methods"][method]["threshold"] == alone["methods"][method]["threshold"]
    assert metrics["methods"]["depth1"]["cost"]["frame_share"] == 100.0
    assert metrics["methods"]["depth1"]["search"] == []
    for method in deeper:
        scores = metrics["methods"][method]
        levels, uppers = scores["search"], int(method[5]) - 1
        assert len(scores["cost"]["levels"]) == uppers and len(levels) == max(uppers, 1)
        assert all(0 <= level["recall"] <= 100 and 0 < level["sent"] <= 100 for level in levels)
        if "bottom_up" in method:
            assert scores["cost"]["frame_share"] == levels[-1]["sent"] == 100.0
        else:
            assert levels[-1]["sent"] == scores["cost"]["frame_share"] < 75.0
    assert metrics["compilations"]["search"]["programs"] <= metrics["compilations"]["search"]["shapes"]


def test_upper_levels_are_told_beside_the_rest(evaluated, capsys):
    workdir, metrics = evaluated
    headings, rows = level_rows(metrics)
    assert len(rows) == 2 * (1 + 2) + 2 + 2 + 2 + 1 and all(len(row) == len(headings) for row in rows)
    page = (workdir / "eval/report.html").read_text()
    assert "Where the search goes" in page and "depth 3, bottom-up" in page and "Questions of this stage" in page
    print_table(metrics)
    out = capsys.readouterr().out
    assert "where the search goes" in out and "groups of 5: exact" in out


def test_what_two_models_share_counts_once_among_the_trained_parameters(chain, evaluated):
    config = chain.config("configs/stage2.py")
    rank, hidden, layers, width, inner = config.lora.rank, 16, 2, 16, config.sparse.mlp_width
    lora = layers * rank * 2 * hidden  # q_proj alone
    attention = 4 * width * width + 4 * width
    layer = attention + 2 * width * inner + inner + width + 4 * width
    sparse = 2 * width + 2 * config.sparse.num_layers * layer + width * hidden + hidden
    assert evaluated[1]["trained_parameters"] == 2 * lora + sparse  # two LoRAs that differ, one sparse adapter


def test_a_finished_search_of_upper_levels_is_kept(evaluated, monkeypatch):
    workdir, metrics = evaluated
    rows = [json.loads(line) for line in (workdir / "eval/predictions_upper.jsonl").read_text().splitlines()]
    held = [row["held"] for row in rows if row.get("method") == "depth3" and "held" in row]
    assert len(held) == metrics["present"] and all(len(levels) == 2 for levels in held)
    recall = 100 * sum(levels[-1] for levels in held) / len(held)
    assert recall == pytest.approx(metrics["methods"]["depth3"]["search"][-1]["recall"])
    monkeypatch.delattr(Searcher, "search")
    assert _scores(evaluate_run(Run.load(workdir))) == _scores(metrics)


def test_a_predecessor_that_is_gone_is_one_clear_line(chain, long_run, tmp_path, capsys):
    workdir = Path(shutil.copytree(long_run, tmp_path / "long"))
    path = workdir / "config.json"
    path.write_text(path.read_text().replace(str(chain.folder / "dense"), str(tmp_path / "gone")))
    assert evaluate.main(["--workdir", str(workdir)]) == 2
    err = capsys.readouterr().err
    assert f"init.dense: no trained run at {tmp_path}/gone; make it with" in err
    assert "python -m revision_jax.train --config configs/stage1.py" in err


def test_no_run_is_one_clear_line(tmp_path, capsys):
    assert evaluate.main(["--workdir", str(tmp_path / "nothing")]) == 2
    assert "holds no trained run" in capsys.readouterr().err
