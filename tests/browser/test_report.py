"""The report in Chromium: `pytest -m browser`."""

import io
import time

import pytest
from PIL import Image

from revision_jax.report.html import write_report
from revision_jax.report.plots import Timeline
from revision_jax.report.thumbnails import MOST, MOST_BYTES, Thumbnails, wanted
from tests.report.test_report import METRICS

pytestmark = pytest.mark.browser
SCRIPT = "<script>document.title = 'changed'</script></script> a ball"
LONG = "a-very-long-name-of-a-video-" * 6


def _cases(count):
    kinds = (
        lambda i: Timeline(f"red ball {i}", 3600.0, [(100.0, 110.0)], [(99.0, 111.0, 2.0)], 1.0, "film"),
        lambda i: Timeline(f"blue ball {i}", 600.0, [(10.0, 20.0)], [(400.0, 411.0, 2.0)], 1.0, LONG, (True, False)),
        lambda i: Timeline(f"no ball {i}", 600.0, [], [(400.0, 411.0, 0.5)], 1.0, LONG),
        lambda i: Timeline(SCRIPT, 600.0, [], [(400.0, 411.0, 5.0)], 1.0, LONG),
    )
    return [kinds[i % 4](i) for i in range(count)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, METRICS, {"train": {"steps": 3, "long": "x" * 300}}, [], _cases(40))
    return path


@pytest.mark.parametrize("width, dark", [(390, False), (1400, False), (390, True), (1400, True)])
def test_nothing_is_cut_and_nothing_is_fetched(visit, page, width, dark):
    seen = visit(page, width=width, dark=dark)
    assert seen.overflow <= 0 and not seen.outside and not seen.errors
    parts = "[...document.querySelectorAll('table, svg, article')].map(part => part.getBoundingClientRect().right)"
    assert max(seen.page.evaluate(parts)) <= width
    light = seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light != dark


def test_pictures_stand_beside_the_queries(visit, tmp_path):
    out = io.BytesIO()
    Image.new("RGB", (160, 90), "red").save(out, "JPEG")
    pictures = {("film", 105.0): out.getvalue(), (LONG, 15.0): out.getvalue()}
    write_report(tmp_path / "report.html", METRICS, {}, [], _cases(4), Thumbnails(pictures, "2 pictures"))
    for width in (390, 1400):
        seen = visit(tmp_path / "report.html", width=width)
        assert seen.overflow <= 0 and not seen.outside and not seen.errors
        sizes = seen.page.evaluate("[...document.querySelectorAll('article img')].map(i => [i.alt, i.naturalWidth])")
        assert sizes == [["truth", 160], ["first answer", 160], ["truth", 160]]


def test_queries_are_filtered_and_a_script_stays_text(visit, page):
    seen = visit(page).page
    cards = seen.locator("article")
    assert cards.count() == 25 and "lost in the search" in cards.first.inner_text()  # failures first
    seen.fill("#query-text", "RED BALL")
    assert cards.count() == 10 and seen.inner_text("#query-count") == "1 to 10 of 10"
    seen.fill("#query-most", "30")
    assert cards.count() == 0 and seen.inner_text("#query-count") == "none"
    seen.fill("#query-text", "")
    seen.select_option("#query-outcome", label="false alarm (10)")
    assert cards.count() == 10 and SCRIPT in cards.first.inner_text()
    seen.select_option("#query-outcome", "failures")
    seen.fill("#query-video", "film")
    assert cards.count() == 0
    assert seen.title() == "revision_jax: test split"


def test_ten_thousand_queries_open_in_three_seconds(visit, tmp_path):
    cases = _cases(10_000)
    pictures = dict.fromkeys(wanted(cases)) | {("film", float(n)): b"" for n in range(MOST - len(wanted(cases)))}
    pictures = dict.fromkeys(pictures, bytes(MOST_BYTES // MOST))
    write_report(tmp_path / "report.html", METRICS, {}, [], cases, Thumbnails(pictures))
    started = time.perf_counter()
    seen = visit(tmp_path / "report.html").page
    assert "10,000" in seen.inner_text("#query-count")
    assert time.perf_counter() - started < 3
    for _ in range(2):
        seen.click("#query-next")
    assert seen.inner_text("#query-count") == "51 to 75 of 10,000" and seen.locator("article").count() == 25
