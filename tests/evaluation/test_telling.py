"""How far an evaluation is, in the log of a job."""

import logging

from revision_jax.evaluation import telling


def test_a_log_has_a_line_now_and_then_and_no_bar(monkeypatch, caplog, capsys):
    caplog.set_level(logging.INFO, logger="revision_jax")
    clock = iter([0.0, 10.0, 40.0, 60.0, 80.0])  # at the start, and after each item
    monkeypatch.setattr(telling.time, "monotonic", lambda: next(clock))
    films = ["alien", "brazil", "casablanca", "dune"]
    assert list(telling.told(films, "val", str.upper)) == films
    lines = ["val, BRAZIL: 2 of 4 done, about 1 min left", "val, DUNE: 4 of 4 done, about 0 min left"]
    assert [record.message for record in caplog.records] == lines
    assert capsys.readouterr().err == ""


def test_what_is_over_soon_is_not_told(caplog):
    caplog.set_level(logging.INFO, logger="revision_jax")
    assert list(telling.told(range(3), "val")) == [0, 1, 2] and not caplog.records
