"""Answers as HTML: moments and windows stand where their seconds are; text of others stays text."""

import re
from pathlib import Path

import numpy as np
import pytest

from revision_jax import config as configs
from revision_jax.metrics.cost import Cost
from revision_jax.page import drawing
from revision_jax.page.library import Video
from revision_jax.runs.answers import Answered
from revision_jax.search.result import Result, Searched

EVIL = '<script>alert(1)</script> "onclick=x {{ 7 * 7 }}'
VIDEO = Video("key", "<i>film</i>.mp4", Path("/secret/film.mp4"))


@pytest.fixture(scope="module")
def config():
    return configs.load("configs/stage1.py", {"search.depth": 3})


def answered(config, moments, threshold=0.0):
    sent = (np.array([[0.0, 50.0], [50.0, 75.0]]), np.array([[25.0, 50.0]]))
    result = Result(EVIL, np.array(moments, np.float64).reshape(-1, 3), threshold, sent=sent)
    return Answered("/secret/film.mp4", 200.0, Searched([result], Cost(seconds=1.25)), config, 5)


def test_everything_stands_at_its_seconds(config):
    page = drawing.answer(VIDEO, answered(config, [[20.0, 30.0, 0.9], [100.0, 150.0, 0.5]]))
    assert re.findall(r'class="name">(.*?)<', page) == [
        "groups of 48: kept 38 %", "groups of 16: kept 12 %", "moments", "",
    ]  # fmt: skip
    placed = re.findall(r"left: ([\d.]+)%; width: ([\d.]+)%", page)
    assert placed == [("0.0", "25.0"), ("25.0", "12.5"), ("12.5", "12.5"), ("10.0", "5.0"), ("50.0", "25.0")]
    assert re.findall(r'data-seek="([\d.]+)" data-of="key"', page) == ["20.0", "100.0", "20.0", "100.0"]
    assert page.index("0:00:20 - 0:00:30") < page.index("0:01:40 - 0:02:30") and "0:03:20" in page
    assert 'data-present="yes"' in page


def test_what_is_not_there_is_said(config):
    page = drawing.answer(VIDEO, answered(config, [[20.0, 30.0, 0.4]], threshold=0.5))
    assert "Not in this video." in page and "had 0.40; 0.50 is needed" in page and "data-seek" not in page
    assert "Every window answered" in drawing.answer(VIDEO, answered(config, []))


def test_text_of_others_stays_text(config):
    one = answered(config, [[20.0, 30.0, 0.9]])
    told = drawing.headline(VIDEO, one)
    pages = [drawing.answer(VIDEO, one), drawing.player(VIDEO), drawing.status(EVIL, "error")]
    pages.append(drawing.past([(told, pages[0])]))
    for page in pages:
        assert "<script" not in page and "<i>film" not in page and '"onclick' not in page and "/secret" not in page
    assert "{{ 7 * 7 }}" in pages[0] and "49" not in pages[0]
    assert drawing.headline(VIDEO, answered(config, [])).endswith("not there")
