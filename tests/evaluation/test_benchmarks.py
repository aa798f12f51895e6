"""From a benchmark's public file to its scored table: one tiny run answers them all."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from revision_jax import evaluate, prepare

PUBLIC = Path(__file__).parents[1] / "data/builders/public"
# name -> (file, video -> seconds of its features, headings of the table after the method)
KITE, DRIVE = "kT0_aBcDeF1_60.0_210.0", "Zy9-xWvUtS8_210.0_360.0"
BENCHMARKS = {
    "charades": ("charades_sta_test.txt", {"K2B9Z": 31, "7QXWD": 30}, ["R1@.3", "R1@.5", "R1@.7", "R5@.5"]),
    "activitynet": ("val_2.json", {"v_aB3-xYz_k01": 59, "QrS9tUvW0x2": 60}, ["R1@.3", "R1@.5", "R1@.7", "R5@.5"]),
    "tacos": ("tacos_test.json", {"s90-d01": 60, "s91-d02": 40}, ["R1@.1", "R1@.3", "R1@.5", "R5@.1"]),
    "qvhighlights": (
        "highlight_val_release.jsonl", {KITE: 126, DRIVE: 150}, ["R1@.5", "R1@.7", "mAP@.5", "mAP@.75", "mAP"],
    ),
    "extremewhen": ("extremewhen.json", {"mN4pQrStUv5": 60}, ["mIoU", "R1@.3", "R1@.5", "R1@.7"]),
    "ego4d": ("nlq_val.json", {"11111111-2222-4333-8444-555555555555": 60}, ["R1@.3", "R1@.5", "R5@.3", "R5@.5"]),
}  # fmt: skip


def prepared(folder, trained_run, name, file, seconds):
    """The split `test` of a benchmark with features that were drawn at random."""
    (folder / "features").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for video, length in seconds.items():
        np.save(folder / "features" / f"{video}.npy", rng.normal(size=(length, 12)).astype(np.float16))
    given = ["--annotations", str(PUBLIC / file), "--features", str(folder / "features"), "--fps", "1"]
    made = ["--encoder", str(trained_run.config.base.encoder), "--out", str(folder), "--split", "test"]
    return prepare.main([name, *given, *made]), folder / "test"


@pytest.fixture(scope="module")
def workdir(trained_run, tmp_path_factory):
    """A copy of the run, without its evaluation."""
    place = tmp_path_factory.mktemp("benchmarks") / "run"
    return Path(shutil.copytree(trained_run.workdir, place, ignore=shutil.ignore_patterns("eval*")))


def scored(workdir, data, *flags):
    """What an evaluation of one method leaves; val is answered once for all of them."""
    arguments = ["--workdir", str(workdir), "--data", str(data), "--out", "eval-b", "--methods", "depth1", *flags]
    # One length of questions, so that one program answers all benchmarks.
    assert evaluate.main([*arguments, "--data.faults", "drop", "--search.question_tokens", "40"]) == 0
    return json.loads((workdir / f"eval-b/metrics_{data.parent.name}-test.json").read_text())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_from_the_public_file_to_its_table_and_submission(name, trained_run, workdir, tmp_path, capsys):
    file, seconds, headings = BENCHMARKS[name]
    code, data = prepared(tmp_path / name, trained_run, name, file, seconds)
    assert code == (1 if name == "charades" else 0)  # one of its lines ends before it starts
    capsys.readouterr()
    form, hit, sign = ("ego4d_nlq", "mad", ">") if name == "ego4d" else ("moment_detr", "ge", ">=")
    metrics = scored(workdir, data, "--submission", form)
    assert metrics["table"]["columns"][: len(headings)] == headings and metrics["table"]["hit"] == hit
    told = " ".join(capsys.readouterr().out.split())
    assert "all windows (depth 1)" in told and f"(IoU {sign} the number" in told and headings[0] in told
    depth1 = metrics["methods"]["depth1"]
    assert depth1["failed"] == 0
    assert metrics["present"] == depth1["queries"] == {"charades": 3, "activitynet": 4}.get(name, metrics["queries"])
    assert all(math.isfinite(value) for value in depth1["average_precision"].values())
    text = next((workdir / "eval-b").glob(f"submission_{form}_{name}-test.*")).read_text()
    if name == "ego4d":
        assert [row["query_idx"] for row in json.loads(text)["results"]] == [0, 2]
    elif name == "qvhighlights":
        rows = [json.loads(line) for line in text.splitlines()]
        assert {(row["qid"], row["vid"]) for row in rows} == {(4711, KITE), (4712, DRIVE), (4713, DRIVE)}
        _scored_as_our_own_answers_are(workdir, data, tmp_path / "theirs.jsonl", rows, capsys)


def _scored_as_our_own_answers_are(workdir, data, other, rows, capsys):
    """What the benchmark's evaluator would read, read back: the same scores, differences of zero, in table and page."""
    path = workdir / "eval-b/submission_moment_detr_qvhighlights-test.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    metrics = scored(workdir, data, "--score", str(path), "--score", str(other))
    ours, same = metrics["methods"]["depth1"], metrics["methods"][f"file {path.stem}"]
    assert all(same[name] == ours[name] for name in ("recall", "mean_iou", "average_precision"))
    assert [row["methods"][0] for row in metrics["compared"]] == ["depth1", "depth1"]
    assert metrics["compared"][0]["mAP"] == {"difference": 0.0, "interval": [0.0, 0.0]}
    assert metrics["others"]["file theirs"]["missing"] == 1
    told, page = capsys.readouterr().out, (workdir / "eval-b/report_qvhighlights-test.html").read_text()
    assert "file theirs" in told and ">file theirs</td>" in page and "minus file theirs" in page


def test_hidden_times_are_submitted_and_missing_ids_refused(trained_run, workdir, tmp_path, capsys, caplog):
    code, data = prepared(tmp_path / "hidden", trained_run, "qvhighlights", "highlight_test_release.jsonl", {KITE: 126})
    assert code == 0 and "hides its times" in caplog.text
    metrics = scored(workdir, data, "--submission", "moment_detr")
    assert metrics["present"] == 0 and "nothing can be found, only submitted" in caplog.text
    lines = (workdir / "eval-b/submission_moment_detr_hidden-test.jsonl").read_text().splitlines()
    assert [json.loads(line)["qid"] for line in lines] == [4714, 4715]
    capsys.readouterr()
    flags = ["--workdir", str(workdir), "--data", str(data), "--submission", "ego4d_nlq"]
    assert evaluate.main(flags) == 2 and "--submission ego4d_nlq needs clip_uid" in capsys.readouterr().err
