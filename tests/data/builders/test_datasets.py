"""The registry of data sets: `prepare` and the rule for `data.name` follow from it."""

import json
from pathlib import Path

import numpy as np

from revision_jax import prepare
from revision_jax.config_rules import RULES
from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.annotations.rows import Annotations, Row
from revision_jax.data.builders.datasets import DATA_SETS, DataSet, Flag


def test_the_config_takes_every_name_of_the_registry():
    accepts, expected = RULES["data.name"]
    assert all(accepts(name) for name in DATA_SETS) and not accepts("none")
    assert all(name in expected for name in DATA_SETS)


def test_prepare_has_a_subcommand_for_each_data_set_that_it_makes(capsys):
    commands = prepare.make_parser()._subparsers._group_actions[0].choices
    made = {name for name, data_set in DATA_SETS.items() if data_set.read is not None}
    assert set(commands) == made | {"merge", "check", "report"} and made.isdisjoint({"shapes", "lcs"})
    for name in made:
        flags = {flag for action in commands[name]._actions for flag in action.option_strings}
        assert {f"--{flag.name}" for flag in DATA_SETS[name].flags} <= flags


def test_a_data_set_is_a_reader_and_an_entry(tmp_path, monkeypatch, clip_dir):
    """With one entry more, `prepare NAME` makes a split with that reader and its own flag."""

    def read(given):
        row = json.loads(Path(given.path).read_text())
        return Annotations([Row("q", row["film"], given.flags["prefix"] + row["says"], ((1.0, 3.0),))])

    monkeypatch.setitem(DATA_SETS, "films", DataSet("films", read, flags=(Flag("prefix", "words before each"),)))
    (tmp_path / "a.json").write_text(json.dumps({"film": "f", "says": "a dog"}))
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features/f.npy", np.ones((9, 24), np.float16))
    given = ["--annotations", str(tmp_path / "a.json"), "--prefix", "now ", "--features", str(tmp_path / "features")]
    made = ["--encoder", str(clip_dir), "--out", str(tmp_path / "out"), "--split", "test"]
    assert prepare.main(["films", *given, *made]) == 0
    (query,) = load_queries(tmp_path / "out/test/queries.jsonl")
    assert (query.video_id, query.sentence) == ("f", "now a dog")
