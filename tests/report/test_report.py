"""Table, pictures and page from made-up metrics."""

import re

import matplotlib.image
import numpy as np
import pytest

from revision_jax.report import plots
from revision_jax.report.html import write_report
from revision_jax.report.table import clock, level_rows, print_table, table_rows

RECALL = {f"R{k}@{theta}": 10.0 * k**0.5 - 10 * theta for k in (1, 5, 10, 50) for theta in (0.1, 0.3, 0.5, 0.7)}
SCORES = {
    "recall": {"mad": RECALL, "ge": RECALL}, "mean_iou": 12.34, "cost": {"seconds_per_query": 0.5, "windows": 7},
    "rejection": {"false_alarm_rate": None, "f1": 66.7, "auroc": 80.0},
}  # fmt: skip
METRICS = {
    "split": "test", "videos": 3, "present": 5, "absent": 2, "seconds": 12.0, "device": {"kind": "cpu", "count": 1},
    "levels": [48, 16], "methods": {"depth1": SCORES, "clip": SCORES}, "before": {"depth1": SCORES}, "compilations": {"train_step": 1},
}  # fmt: skip
CASES = [
    plots.Timeline("a <b>red</b> ball", 3600.0, [(100.0, 110.0)], [[99.0, 111.0, 2.0], [5.0, 9.0, 0.1]], 1.0),
    plots.Timeline("nothing of the sort", 3600.0, [], [[99.0, 111.0, 0.5]], 1.0),
    plots.Timeline("never answered", 50.0, [(1.0, 2.0)], [], 1.0),
]


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3661.2, 36000)] == ["0:00:00", "0:01:00", "1:01:01", "10:00:00"]


def test_the_table_has_a_row_a_method_and_no_nan(capsys):
    headings, rows = table_rows(METRICS)
    assert [row[0] for row in rows] == ["CLIP frame retrieval", "before training", "all windows (depth 1)"]
    assert all(len(row) == len(headings) for row in rows)
    cells = dict(zip(headings, rows[-1]))
    assert (cells["R1@.3"], cells["mIoU"], cells["false alarms"], cells["s/query"]) == ("7.0", "12.3", "–", "0.50")
    print_table(METRICS)
    out = capsys.readouterr().out
    assert "5 present and 2 absent queries, 3 videos" in out and "all windows (depth 1)" in out


def test_what_each_level_sent_down(capsys):
    assert level_rows(METRICS)[1] == []
    coarse, fine = {"sent": 80.0, "recall": 95.0}, {"sent": 55.0, "recall": 90.0}
    deeper = {"depth2": SCORES | {"search": [fine]}, "depth3": SCORES | {"search": [coarse, fine]}}
    metrics = METRICS | {"methods": METRICS["methods"] | deeper}
    assert [row[1:] for row in level_rows(metrics)[1]] == [
        ["groups of 16", "55.0", "90.0"], ["groups of 48", "80.0", "95.0"], ["groups of 16", "55.0", "90.0"],
    ]  # fmt: skip
    print_table(metrics)
    assert "events among them" in capsys.readouterr().out


def test_pictures_show_something(tmp_path):
    plots.loss_curve([1, 2, 3], [3.0, 2.0, 1.5], tmp_path / "loss.png")
    plots.recall_bars({"depth1": RECALL, "clip": RECALL}, tmp_path / "recall.png")
    plots.timelines(CASES, tmp_path / "timelines.png")
    for name in ("loss", "recall", "timelines"):
        picture = matplotlib.image.imread(tmp_path / f"{name}.png")
        assert min(picture.shape[:2]) > 300 and len(np.unique(picture[..., :3] @ [1.0, 10.0, 100.0])) > 20
    # Truth is drawn in its own colour, in the whole video and in the close-up.
    green = np.abs(picture[..., :3] - np.array([0x2E, 0x8B, 0x57]) / 255).max(axis=2) < 0.02
    assert green[:, : green.shape[1] // 2].any() and green[:, green.shape[1] // 2 :].any()


def test_the_page_needs_no_other_file_and_escapes_sentences(tmp_path):
    picture = tmp_path / "a.png"
    plots.loss_curve([1, 2], [2.0, 1.0], picture)
    page = tmp_path / "report.html"
    write_report(page, METRICS, {"train": {"steps": 3}}, [("Training", picture, "Loss.")], CASES)
    text = page.read_text()
    assert "a &lt;b&gt;red&lt;/b&gt; ball" in text and "<b>red" not in text
    assert "0:01:39 – 0:01:51" in text and "not there" in text and "never" in text
    assert text.count("data:image/png;base64,") == 1 and not re.search(r"(?:src|href)=\"(?!data:)", text)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_key_the_page_needs_is_not_left_blank(tmp_path):
    with pytest.raises(KeyError):
        write_report(tmp_path / "r.html", {k: v for k, v in METRICS.items() if k != "device"}, {}, [], CASES)
