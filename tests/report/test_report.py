"""Table, pictures and page from made-up metrics."""

import json
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from revision_jax import config as configs
from revision_jax.report import plots
from revision_jax.report.html import write_report
from revision_jax.report.model_card import model_card
from revision_jax.report.summary import SHOWN, choose_cases, read_losses
from revision_jax.report.table import clock, compared_rows, detail_rows, level_rows, print_table, shown, table_rows

RECALL = {f"R{k}@{theta}": 10.0 * k**0.5 - 10 * theta for k in (1, 5, 10, 50) for theta in (0.1, 0.3, 0.5, 0.7)}
SCORES = {
    "recall": {"mad": RECALL, "ge": RECALL}, "mean_iou": 12.34, "cost": {"llm_tokens_per_query": 812.0},
    "measured": {"seconds_per_query": 0.5}, "intervals": {"R1@0.3": [5.0, 9.25]}, "sets": {"count_accuracy": 40.0},
    "calibration": {"0.3": {"ece": 8.0, "auroc": None}},
    "rejection": {"false_alarm_rate": None, "f1": 66.7, "auroc": 80.0},
    "average_precision": {"mAP@0.5": 55.5, "mAP@0.75": 44.4, "mAP": 33.3},
}  # fmt: skip
METRICS = {
    "split": "test", "videos": 3, "present": 5, "absent": 2,
    "measured": {"seconds": 12.0, "device": {"kind": "cpu", "count": 1}},
    "methods": {"depth1": SCORES, "clip": SCORES}, "before": {"depth1": SCORES}, "compilations": {"train_step": 1},
    "queries": 7, "stage": "long", "train_steps": 4, "served": "depth1", "retrieval": {},
    "questions": {"groups of 4": {"trained": {"exact": 50.0, "groups": 3}, "before": {"exact": 25.0, "groups": 3}}},
    "levels": [48, 16], "protocol": {"name": "ours", "says": "all of it"},
    "compared": [{"methods": ["depth1", "clip"]} | {
        column: {"difference": 1.0, "interval": [-2.0, 4.0]}
        for column in ("R1@0.3", "R5@0.3", "R1@0.5", "mean_iou", "mAP")
    }],
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
    assert "protocol ours (all of it)" in " ".join(out.split()) and "groups of 4: exact" in out and "25.00" in out
    assert max(map(len, out.splitlines())) <= 80 and "R10@.3" not in out and "+1.0 (-2.0 to +4.0)" in out
    details = dict(zip(*(lambda table: (table[0], table[1][-1]))(detail_rows(METRICS))))
    assert details["R1@.3, 95 %"] == "5.0 to 9.2" and details["LLM tokens/query"] == "812.0"
    assert details["ECE@.3"] == "8.0" and details["AUROC@.3"] == "–"
    assert compared_rows(METRICS)[1] == [
        ["all windows (depth 1) minus CLIP frame retrieval", *["+1.0 (-2.0 to +4.0)"] * 4]
    ]


def test_a_wide_table_and_the_columns_of_a_benchmark(capsys):
    """Without either the terminal shows what decides, in 80 columns."""
    narrow = table_rows(METRICS)[0]
    assert narrow == table_rows(METRICS | {"table": shown((), "mad", False)})[0] and "mAP" not in narrow
    wide = METRICS | {"table": shown((), "mad", True)}
    assert table_rows(wide)[0] == [*narrow, "mAP@.5", "mAP@.75", "mAP"]
    assert table_rows(wide)[1][0][-3:] == ["55.5", "44.4", "33.3"]
    assert compared_rows(wide)[0] == [*compared_rows(METRICS)[0], "mAP"] and len(compared_rows(wide)[1][0]) == 6
    equal = SCORES | {"recall": {"mad": RECALL, "ge": {name: 99.0 for name in RECALL}}}
    own = METRICS | {"methods": {"depth1": equal}, "table": shown(("R1@.5", "R5@.7", "mAP"), "ge", False)}
    headings, rows = table_rows(own)
    assert headings[:4] == ["method", "R1@.5", "R5@.7", "mAP"] and "R1@.1" not in headings and "frames" in headings
    assert rows[-1][1:4] == ["99.0", "99.0", "33.3"]
    print_table(own)
    out = capsys.readouterr().out
    assert "IoU >= the number" in " ".join(out.split()) and "R5@.7" in out and "R1@.3" not in out
    assert max(map(len, out.splitlines())) <= 80
    print_table(wide)
    out = capsys.readouterr().out
    assert "R10@.3" in out and "mAP@.75" in out and "LLM" in out  # all tables


def test_what_each_level_sent_down(capsys):
    assert level_rows(METRICS)[1] == []
    coarse, fine = {"sent": 80.0, "recall": 95.0}, {"sent": 55.0, "recall": 90.0}
    deeper = {"depth2": SCORES | {"search": [fine]}, "depth3": SCORES | {"search": [coarse, fine]}}
    metrics = METRICS | {"methods": METRICS["methods"] | deeper}
    assert [row[1:] for row in level_rows(metrics)[1]] == [
        ["groups of 16", "55.0", "90.0"], ["groups of 48", "80.0", "95.0"], ["groups of 16", "55.0", "90.0"],
    ]  # fmt: skip
    methods = metrics["methods"] | {"depth3_cascade": deeper["depth3"], "depth3_top_down_rescaled": deeper["depth3"]}
    compared = [pair | {"methods": ["depth3_top_down_rescaled", "depth3_cascade"]} for pair in METRICS["compared"]]
    print_table(metrics | {"methods": methods, "compared": compared})
    out = capsys.readouterr().out
    assert "where the search goes" in out and max(map(len, out.splitlines())) <= 80


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


def test_no_picture_takes_the_display_of_a_notebook():
    """pyplot, and a backend chosen by a library, would end the pictures that a notebook shows by itself."""
    package = Path(plots.__file__).parents[1]
    named = [
        path.name
        for path in package.rglob("*.py")
        if re.search(r"matplotlib\.pyplot|matplotlib\.use", path.read_text())
    ]
    assert named == []


def test_queries_are_chosen_at_even_distances_with_two_absent_ones():
    timeline = lambda i: plots.Timeline(f"event {i}", 60.0, [] if i % 10 == 9 else [(1.0, 2.0)], [], 1.0)
    chosen = choose_cases([timeline(i) for i in range(100)])
    assert len(chosen) == SHOWN and [bool(case.truth) for case in chosen] == [True] * (SHOWN - 2) + [False] * 2
    assert [case.sentence for case in chosen[-2:]] == ["event 9", "event 59"]
    assert choose_cases(CASES[1:]) == [CASES[2], CASES[1]]


def test_the_page_needs_no_other_file_and_escapes_sentences(tmp_path):
    picture = tmp_path / "a.png"
    plots.loss_curve([1, 2], [2.0, 1.0], picture)
    page = tmp_path / "report.html"
    write_report(page, METRICS, {"train": {"steps": 3}}, [("Training", picture, "Loss.")], CASES)
    text = page.read_text()
    assert "a \\u003cb\\u003ered\\u003c/b\\u003e ball" in text and "<b>red" not in text
    assert (
        "Finds 1 of 2 events with its first answer (50 of 100); half of these begin within 1.0 s of the event." in text
    )
    assert "Says “not there” rightly 1 of 1 times (100 of 100)." in text and "{&#34;" not in text
    assert text.count("data:image/png;base64,") == 1 and not re.search(r"(?:src|href)=\"(?!data:)", text)
    assert not list(tmp_path.glob("*.tmp"))


def test_ids_and_paths_stay_text_in_the_page_and_in_the_model_card(tmp_path):
    script, shown = "<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"
    page, named = tmp_path / "report.html", METRICS | {"split": script, "protocol": {"name": script, "says": "-"}}
    write_report(page, named, {"train": {script: script}}, [], CASES)
    assert script not in page.read_text() and shown in page.read_text()
    config = configs.load(overrides={"base.llm": f"models/{script}\n# A heading"})
    manifest = {"made_by": script, "run": {"step": 1}, "lora": False, "check": None}
    card = model_card(config, manifest, named, [script])
    assert script not in card and "&lt;script>" in card and "\n# A heading" not in card


def test_a_key_the_page_needs_is_not_left_blank(tmp_path):
    with pytest.raises(KeyError):
        write_report(tmp_path / "r.html", {k: v for k, v in METRICS.items() if k != "protocol"}, {}, [], CASES)


def test_validations_are_read_beside_the_steps_and_drawn(tmp_path):
    lines = [{"step": n, "loss": 3.0 - n / 10} for n in range(1, 9)]
    lines.insert(4, {"step": 4, "val_loss": 2.7, "val_accuracy": 0.25})
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    steps, losses, validations = read_losses(tmp_path)
    assert steps == list(range(1, 9)) and len(losses) == 8 and validations == {4: 2.7}
    plots.loss_curve(steps, losses, tmp_path / "with.png", validations)
    plots.loss_curve(steps, losses, tmp_path / "without.png")
    green = np.array([0x2E, 0x8B, 0x57]) / 255
    pixels = lambda name: matplotlib.image.imread(tmp_path / name)[..., :3]
    points = [(np.abs(pixels(name) - green).max(axis=2) < 0.02).any() for name in ("with.png", "without.png")]
    assert points == [True, False]
