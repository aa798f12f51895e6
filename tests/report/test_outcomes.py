"""What became of made-up queries, and how the page hands them over."""

import json
import re

from revision_jax.report.html import island
from revision_jax.report.outcomes import OUTCOMES, failures_first, in_words, localisation_rows, loss_rows, outcome
from revision_jax.report.plots import Timeline

RIGHT, WRONG = (100.0, 110.0), (500.0, 510.0)


def _case(moments, truth=(RIGHT,), sentence="a ball", **more):
    return Timeline(sentence, 600.0, truth, [(*moment, 2.0) for moment in moments], 1.0, "film", **more)


def _doubtful(truth):
    return Timeline("a ball", 600.0, truth, [(*RIGHT, 0.5)], 1.0, "film")


CASES = {
    "not asked": _case([], error="too long"),
    "lost in the search": _case([WRONG], held=(True, False)),
    "no answer": _case([], held=(True, True)),
    "wrong place": _case([WRONG] * 5 + [RIGHT]),
    "right, not first": _case([WRONG, RIGHT]),
    "kept back": _doubtful([RIGHT]),
    "false alarm": _case([WRONG], truth=()),
    "found": _case([(98.0, 110.0), WRONG]),
    "rightly refused": _doubtful([]),
}


def test_each_outcome_and_their_order():
    assert {name: outcome(case) for name, case in CASES.items()} == {name: name for name in OUTCOMES}
    assert failures_first(list(CASES.values())[::-1]) == list(CASES.values())


def test_sums_in_words_and_tables():
    told = in_words(list(CASES.values()))
    assert "Finds 2 of 7 events with its first answer (29 of 100); half of these begin within 1.0 s" in told
    assert "“not there” rightly 1 of 2 times (50 of 100)" in told and in_words([]) == ""
    rows = {row[0]: row[2:] for row in loss_rows(list(CASES.values()))}
    assert rows["wrong place"] == ["1", "14.3"] and rows["false alarm"] == ["1", "50.0"]
    assert localisation_rows([CASES["found"]])[0][2] == "-2.00" and localisation_rows([CASES["wrong place"]]) == []


def test_what_the_page_is_given_cannot_end_its_script():
    hostile = "</script><!-- & \u2028 \ud800 <b>"
    text = island([_case([RIGHT], sentence=hostile), CASES["lost in the search"]])
    assert text.isascii() and not re.search("[<>&]", text)
    data = json.loads(text)
    assert [row[0] for row in data["rows"]] == ["a ball", hostile] and data["rows"][0][6] == "level 2 of 2"
    assert data["outcomes"][data["rows"][0][4]] == "lost in the search" and data["failures"] == len(OUTCOMES) - 2


def test_infinite_thresholds_and_confidences_are_told():
    case = Timeline("a ball", 600.0, [], [(*RIGHT, float("inf"))], float("inf"), "film")
    assert json.loads(island([case]))["threshold"] > 1e200
