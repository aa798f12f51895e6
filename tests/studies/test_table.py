"""Tables, plots and the page of a study, from rows made by hand."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from study_file import dense, row, write_study

from revision_jax.files import plain
from revision_jax.studies import facts, grid, plots, table
from revision_jax.studies.columns import COLUMNS, WARM, bounds_of, scores_of, value_of
from revision_jax.studies.page import write_page
from revision_jax.studies.results import failure, outcome, results

SECONDS = 0.125


def metrics(recall, alarms=10.0):
    """What the columns read of a `metrics.json`."""
    bins = [{"low": 0.0, "high": 100.0, "confidence": 70.0, "accuracy": 60.0, "answers": 50}]
    of_iou = {"ece": 7.5, "ece_uncalibrated": 20.0, "auroc": 81.0, "bins": bins}
    scores = {
        "recall": {"mad": {"R1@0.1": recall + 2, "R1@0.3": recall}},
        "mean_iou": 55.0,
        "intervals": {"mean_iou": [50.0, 60.0]},
        "rejection": {"false_alarm_rate": alarms, "auroc": 90.0},
        "calibration": {"0.3": of_iou},
        "search": [{"sent": 90.0, "recall": 99.0}, {"sent": 59.0, "recall": 97.0}],
        "cost": {"frame_share": 59.0, "llm_tokens_per_query": 1234.5},
        WARM: SECONDS,
    }
    head = {"split": "test", "data": {}, "protocol": {}, "levels": [48, 16], "trained_parameters": 940_928}
    return {**head, "present": 180, "absent": 60, "methods": {"depth1": scores}, "retrieval": {}}


@pytest.fixture
def made(tmp_path):
    """`made(recalls)` -> results.json of a study of two rows, by name -> recall a seed (None: it failed)."""

    def make(recalls, columns=("R1@.3", "false alarms", "s/query, warm"), **given):
        rows = [row(name, dense(), "depth1", point=name, **given) for name in recalls]
        study = grid.load(write_study(tmp_path / "mine.py", rows, columns, paper="MAD, R1@.1", line=True))
        found = {}
        for one in study.rows:
            found[one.name] = {}
            for seed, recall in enumerate(recalls[one.name]):
                chain = grid.chain_of(study, one, seed, tmp_path)
                trained = [{"steps": 400, "minutes": 2.5, "commit": "c0ffee", "parameters": 5}]
                scored = (
                    {"metrics": metrics(recall), "minutes": 0.5, "commit": "c0ffee"} if recall is not None else None
                )
                place = tmp_path / "small"
                found[one.name][seed] = (
                    outcome(chain, trained, scored, place) if scored else failure(OSError("no disk"))
                )
        return json.loads(json.dumps(plain(results(study, [0, 1, 2], found, [0, 1, 2]))))

    return make


# ------------------------------------------------------------------------------------------------- columns
def test_columns_find_their_values_and_intervals():
    said = metrics(80.0)
    scores = scores_of(said, "depth1")
    found = {name: value_of(scores, name) for name in COLUMNS}
    assert (found["R1@.3"], found["search recall"], found["ECE@.3 raw"]) == (80.0, 97.0, 20.0)
    assert (found["s/query, warm"], found["LLM tokens/query"], found["false alarms"]) == (SECONDS, 1234.5, 10.0)
    assert found["ECE@.1"] is None and found["R@1"] is None and found["GFLOP/query"] is None
    low, high = bounds_of(said, scores, "R1@.3")
    assert low < 80.0 < high and high - low == pytest.approx(11.6, abs=0.2)  # of 180 queries
    few = bounds_of(said, scores, "false alarms")
    assert few[1] - few[0] > high - low  # of 60
    assert bounds_of(said, scores, "mIoU") == (50.0, 60.0)
    assert bounds_of(said, scores, "ECE@.3") is None
    clips = {"methods": {}, "retrieval": {"methods": {"depth2": {"R@1": 80.5}}}}
    assert value_of(scores_of(clips, "depth2"), "R@1") == 80.5
    with pytest.raises(ValueError, match="no method 'depth3'; expected one of depth1"):
        scores_of(said, "depth3")


# ------------------------------------------------------------------------------------------------- tables
def test_a_row_has_means_intervals_and_what_it_cost(made):
    said = made({"first": [80.0, 82.0, 84.0], "second": [70.0, None, 72.0]}, paper="8.4")
    headings, rows = table.table_rows(said)
    assert headings[:2] == ["row", "R1@.3"] and headings[-1] == "paper (MAD, R1@.1)"
    cells = dict(zip(headings, rows[0]))
    assert re.fullmatch(r"82\.0 \(\d\d\.\d to \d\d\.\d\)", cells["R1@.3"])
    low, high = map(float, re.findall(r"\d+\.\d", cells["R1@.3"])[1:])
    assert low < 82 - 4.9 and high > 82 + 4.9  # three seeds with a deviation of 2 alone
    assert cells["s/query, warm"] == "0.125 (0.125 to 0.125)"
    assert (cells["parameters"], cells["steps"], cells["minutes"]) == ("940,928", "400", "2.5 + 0.5")
    assert (cells["seeds"], cells["paper (MAD, R1@.1)"]) == ("3", "8.4")
    assert dict(zip(headings, rows[1]))["seeds"] == "2" and rows[1][1].startswith("71.0 ")
    headings, rows = table.seed_rows(said)
    assert [line[:3] for line in rows] == [
        ["first", "0", "80.0"], ["first", "1", "82.0"], ["first", "2", "84.0"],
        ["second", "0", "70.0"], ["second", "2", "72.0"],
    ]  # fmt: skip
    assert rows[0][-1].startswith("../stages/dense-")
    assert table.errors(said) == [("second, seed 1", "OSError: no disk")]


def test_rows_without_values_have_dashes(made):
    said = made({"first": [None, None, None], "second": []}, ("R1@.3",))
    _, rows = table.table_rows(said)
    assert rows[0][1:] == rows[1][1:] == ["–", "0", "–", "–", "–"]
    assert plots.write_plots(said, Path("nowhere")) == []


def test_the_markdown_table_says_where_it_comes_from(made):
    said = made({"a | b": [80.0, 82.0, 84.0]})
    text = table.markdown(said, "python -m revision_jax.ablate --config mine.py:small")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 3 and lines[2].startswith("| a \\| b | 82.0 (")
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    for word in (said["config_sha256"][:12], "Seeds 0, 1, 2", "jax ", "cores", "--config mine.py:small", "Student's t"):
        assert word in text
    assert "Failed" not in text
    assert "- a | b, seed 1: OSError: no disk" in table.markdown(made({"a | b": [80.0, None]}), "")


def test_facts(tmp_path):
    assert facts.commit(tmp_path) is None
    said = facts.commit()
    assert said is None or re.fullmatch(r"[0-9a-f]{40}\+?", said)
    machine = facts.machine()
    assert machine["cores"] >= 1 and machine["memory_gib"] > 0 and machine["processor"]


# ------------------------------------------------------------------------------------------------- plots, page
def test_every_plotted_column_is_drawn_with_its_intervals(made, tmp_path, monkeypatch):
    drawn = []
    draw = plots.draw
    monkeypatch.setattr(
        plots, "draw", lambda *given, **style: drawn.append((given[1:], style)) or draw(*given, **style)
    )
    said = made({"first": [80.0, 82.0, 84.0], "a name that is long": [70.0, 71.0, 72.0]})
    said["plotted"] = ["R1@.3", "false alarms"]
    paths = plots.write_plots(said, tmp_path)
    assert [path.name for path in paths] == ["r1-3.png", "false-alarms.png"]
    for path in paths:
        pixels = image.imread(path)
        assert min(pixels.shape[:2]) > 100 and np.ptp(pixels[..., :3]) > 0.5
    (places, values), style = drawn[0]
    assert list(places) == [0, 1] and style["flat"] and style["joined"]
    assert [value["mean"] for value in values] == [82.0, 71.0] and all(value["low"] < value["mean"] for value in values)


def test_the_page_holds_tables_plots_and_failures(made, tmp_path):
    said = made({"<b>first</b>": [80.0, 82.0, None]}, ("R1@.3", "ECE@.3"))
    write_page(tmp_path / "index.html", said, "python -m revision_jax.ablate", plots.write_plots(said, tmp_path))
    page = (tmp_path / "index.html").read_text()
    assert "<b>first</b>," not in page and "&lt;b&gt;first&lt;/b&gt;" in page and "OSError: no disk" in page
    assert page.count("data:image/png;base64,") == 1 and "Reliability diagram" in page
    assert "--accent" in page  # the report's style
    assert not re.findall(r'(?:src|href)="https?:', page)
    places = re.findall(r'href="(\.\./stages/[^"]+)"', page)
    assert len(places) == 2
