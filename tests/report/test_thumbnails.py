"""Which moments a report shows, failures first and not too many; the page says how many, or why none."""

import json

from revision_jax.report import thumbnails as module
from revision_jax.report.html import island, write_report
from revision_jax.report.plots import Timeline
from revision_jax.report.thumbnails import Thumbnails, answer_moment, truth_moment, wanted
from tests.report.test_report import METRICS

FOUND = Timeline("found", 600.0, [(100.0, 110.0)], [(100.0, 110.0, 2.0)], 1.0, "a")
WRONG = Timeline("wrong", 600.0, [(10.0, 20.0), (300.0, 320.0)], [(400.0, 410.0, 2.0)], 1.0, "b")
ABSENT = Timeline("absent", 600.0, [], [(590.0, 620.0, 5.0)], 1.0, "a")
SILENT = Timeline("silent", 600.0, [(10.0, 20.0)], [], 1.0, "b")


def test_moments_are_middles_failures_first(monkeypatch):
    assert answer_moment(WRONG) == ("b", 405.0) and truth_moment(WRONG) == ("b", 310.0)
    assert answer_moment(ABSENT) == ("a", 600.0) and truth_moment(ABSENT) is None
    order = [("b", 15.0), ("b", 405.0), ("b", 310.0), ("a", 600.0), ("a", 105.0)]
    assert wanted([FOUND, ABSENT, WRONG, SILENT]) == order
    monkeypatch.setattr(module, "MOST", 2)
    assert wanted([FOUND, ABSENT, WRONG, SILENT]) == order[:2]


def test_the_page_holds_each_picture_once(tmp_path):
    pictures = {("b", 405.0): b"jpeg", ("a", 105.0): b"other"}
    data = json.loads(island([FOUND, WRONG, SILENT], pictures))
    shown = {row[0]: row[7:] for row in data["rows"]}
    assert shown == {"silent": [], "wrong": [[0, -1]], "found": [[1, 1]]} and len(data["pictures"]) == 2
    for told in ("2 pictures of 160 pixels", "No pictures: the video files are gone"):
        write_report(tmp_path / "report.html", METRICS, {}, [], [FOUND], Thumbnails(pictures, told))
        assert (tmp_path / "report.html").read_text().count(told) == 1
