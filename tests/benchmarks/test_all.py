"""The measurements beside peers in one call, and the table of the docs that is made from them. Nothing is timed."""

import contextlib
import importlib
import json
import shlex
from pathlib import Path

import pytest

from revision_jax.benchmarks import all as together
from revision_jax.benchmarks import decoding, extraction, loaders, span_decoding, train_step
from revision_jax.benchmarks.peers_table import BEGIN, END, NOTHING, render, with_table
from revision_jax.files import read_json

DOCS = Path(__file__).parents[2] / "docs"
ROW = {
    "work": "a step",
    "unit": "ms a step",
    "ours_is": "ours",
    "peer_is": "theirs",
    "rounds": 3,
    "ours": {"median": 10.0, "least": 9.5, "most": 12.0},
    "peer": {"median": 12.5, "least": 12.0, "most": 13.0},
    "ratio": {"median": 1.25, "least": 1.1, "most": 1.3},
}
PAGE = f"# Numbers\n\n{BEGIN}\nold\n{END}\n\nmore\n"


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "benchmarks.md").write_text(PAGE)
    return tmp_path


def test_the_table_of_the_docs_is_what_the_file_gives():
    page = (DOCS / "benchmarks.md").read_text()
    assert with_table(page, read_json(DOCS / "benchmarks.json")) == page


def test_a_call_writes_the_file_and_the_table(docs, monkeypatch, capsys):
    monkeypatch.setattr(together, "FAST", ("one --flag", "two"))
    monkeypatch.setattr(
        together, "run", lambda command: {"command": f"python -m {command}", "seconds": 2.0, "beside": [ROW]}
    )
    assert together.main(["--fast", "--docs", str(docs)]) == 0
    found = json.loads((docs / "benchmarks.json").read_text())
    assert found["command"] == "python -m revision_jax.benchmarks.all --fast" and found["seconds"] == 4.0
    assert found["machine"]["cores"] > 0 and found["versions"]["jax"] and len(found["date"]) == 10
    page = (docs / "benchmarks.md").read_text()
    assert page == PAGE.replace("old", f"\n{render(found)}\n")
    row = "| a step | ms a step | 10 (9.5 to 12) | theirs | 12.5 (12 to 13) | 1.25 (1.1 to 1.3) |"
    assert f"{row} 1 |\n{row} 2 |\n\n1. `python -m one --flag` (2 s)\n2. `python -m two` (2 s)\n" in page
    (docs / "benchmarks.md").write_text(PAGE)
    assert together.main(["--table", "--docs", str(docs)]) == 0
    assert (docs / "benchmarks.md").read_text() == page


def test_without_a_measurement_the_page_says_so(docs):
    assert together.main(["--table", "--docs", str(docs)]) == 0
    assert NOTHING in (docs / "benchmarks.md").read_text()


def test_a_command_that_fails_is_told_and_nothing_is_written(docs, monkeypatch):
    monkeypatch.setattr(together, "FAST", ("no_such_benchmark --repeat 3",))
    with pytest.raises(RuntimeError, match=r"no_such_benchmark --repeat 3` failed with 1:\n.*No module named"):
        together.main(["--fast", "--docs", str(docs)])
    assert (docs / "benchmarks.md").read_text() == PAGE and not (docs / "benchmarks.json").exists()


def test_a_page_without_a_place_is_told(docs, capsys):
    (docs / "benchmarks.md").write_text("# Numbers\n")
    with pytest.raises(ValueError, match=r"no place for the table; expected once the lines\n<!-- peers"):
        together.main(["--table", "--docs", str(docs)])
    with pytest.raises(SystemExit):
        together.main(["--table", "--docs", str(docs / "none")])
    assert "there is no" in capsys.readouterr().err


@pytest.mark.parametrize("command", together.FAST + together.WHOLE)
def test_every_command_is_understood(command, monkeypatch, capsys):
    """By its benchmark, which measures nothing here."""
    module, *flags = shlex.split(command)
    monkeypatch.setattr(loaders, "measure", lambda args, folder: {})
    monkeypatch.setattr(extraction, "measure", lambda args, folder: {})
    monkeypatch.setattr(decoding, "measure", lambda args, codec, folder: {"beside": [ROW]})
    monkeypatch.setattr(decoding, "version", lambda program: "7.1")
    monkeypatch.setattr(span_decoding, "measure", lambda *_: ([], 1))
    monkeypatch.setattr(train_step, "measure_variants", lambda arguments, shape, peer: [{"beside": [ROW]}])
    monkeypatch.setattr(train_step, "steps_beside", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(train_step, "keep_freed_memory", lambda: None)
    importlib.import_module(f"{together.__package__}.{module}").main(flags)
    report = json.loads(capsys.readouterr().out)
    if module == "train_step":
        assert report["beside"][0]["work"].startswith(f"train step, `{report['shape']}`: {report['batch']} row")
