"""Queries too long for the prompt: all are listed before weights are read, and left out where that is asked for."""

import json
import shutil

import pytest

from revision_jax import config as configs
from revision_jax import prepare, train


@pytest.fixture
def long(trained_run, tmp_path):
    """A copy of the run's splits in which two queries of `train` are too long, and the flags of a training on it."""
    for split, directory in trained_run.directories.items():
        shutil.copytree(directory, tmp_path / "data" / split)
    path = tmp_path / "data/train/queries.jsonl"
    lines = [json.loads(line) for line in path.read_text().split("\n") if line]
    for row in lines[:2]:
        row["sentence"] = " ".join(["circle"] * 300)
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    changed = configs.differences(configs.load(), trained_run.config)
    flags = [f"--config.{key}={value}" for key, (_, value) in changed.items() if key != "data.dir"]
    flags += [f"--config.data.dir={tmp_path / 'data'}", "--config.data.name=folder"]
    flags += ["--config.eval.after_training=false", "--config.train.batch_size=1", "--workdir", str(tmp_path / "run")]
    return tmp_path / "data", [row["query_id"] for row in lines], flags


def test_a_training_lists_all_before_it_reads_weights(long, capsys, monkeypatch):
    _, ids, flags = long
    monkeypatch.setattr("revision_jax.runs.run.fresh_grounder", lambda *_: pytest.fail("weights were read"))
    assert train.main(flags) == 2
    err = capsys.readouterr().err
    assert "2 queries are too long" in err and "--config.data.faults=drop leaves them out" in err
    assert all(f"query {name!r}: the query 'circle circle" in err for name in ids[:2]) and "circle'" not in err


def test_a_training_leaves_them_out(long, caplog):
    _, _, flags = long
    with caplog.at_level("INFO", "revision_jax"):
        assert train.main([*flags, "--config.data.faults=drop"]) == 0
    assert "leaves out 2 queries that are too long" in caplog.text


def test_check_counts_tokens(long, trained_run, capsys):
    data, ids, _ = long
    llm = trained_run.config.base.llm
    check = ["check", "--fast", str(data / "train")]
    assert prepare.main(check) == 0
    assert prepare.main([*check, "--llm", llm]) == 1
    found = [json.loads(line) for line in (data / "train/too_long.jsonl").read_text().split("\n") if line]
    assert [row["query_id"] for row in found] == ids[:2]
    assert all("tokens with its answer" in row["detail"] and len(row["detail"]) < 300 for row in found)
    assert prepare.main([*check, "--llm", llm, "--text-tokens", "4000"]) == 0
    assert not (data / "train/too_long.jsonl").exists()
