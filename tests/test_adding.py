"""What docs/architecture.md promises of additions: a policy and a negative strategy are one file, a data set is one
file and one line of its registry. Each is added here beside the package and used through the verbs."""

import json
from pathlib import Path

import numpy as np
import pytest

from revision_jax import ground, prepare
from revision_jax.data.batches import negatives
from revision_jax.data.builders.datasets import DATA_SETS, DataSet, Given
from revision_jax.runs.run import Run
from revision_jax.runs.training import make_task
from revision_jax.search import policies

POLICY = '''
"""The policy `least_likely`: the windows that the upper levels think least of, to see what they miss."""
import dataclasses

from revision_jax.search.policies.top_down import TopDown


@dataclasses.dataclass(frozen=True)
class LeastLikely(TopDown):
    name = "least_likely"
    least_depth = 2
    compared = "never"

    def dense_scores(self, scores, similarity):
        return -scores
'''
STRATEGY = '''
"""The strategy `first`: always the earliest window in which the event does not happen."""
import dataclasses

import numpy as np

from revision_jax.data.batches.negatives.random import Random


@dataclasses.dataclass(frozen=True)
class First(Random):
    name = "first"

    def draw(self, query, rng, near_miss_fraction):
        return min((super(First, self).draw(query, np.random.default_rng(n), 0.0) for n in range(50)),
                   key=lambda clip: clip.window_start_s)
'''


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Adds a file to a package that is found by its files."""

    def add(package, name, text):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])

    return add


def test_a_policy_is_one_file(beside, long_run, trained_run, capsys):
    beside(policies, "least_likely", POLICY)
    arguments = [str(trained_run.video), "a red circle", "--workdir", str(long_run), "--keep", "0.5,0.2", "--json"]
    asked = {}
    for policy in ("top_down", "least_likely"):
        assert ground.main([*arguments, "--policy", policy]) == 0
        (query,) = json.loads(capsys.readouterr().out)["queries"]
        asked[policy] = [tuple(window) for window in query["levels"][-1]["windows"]]
    assert asked["least_likely"] and not set(asked["least_likely"]) & set(asked["top_down"])
    assert ground.main([*arguments, "--policy", "least_likely", "--depth", "1"]) == 2
    assert "does not search at depth 1" in capsys.readouterr().err


def test_a_negative_strategy_is_one_file(beside, chain, tmp_path):
    beside(negatives, "first", STRATEGY)
    config = chain.config("configs/stage1.py", data__negatives=(("first", 1.0),))
    task = make_task(Run(config, tmp_path / "run"), chain.directories)
    records = [int(record) for batch, _ in zip(iter(task.batches), range(8)) for record in batch["record_id"]]
    told = [line for line in map(task.describe_record, records) if "Not Present" in line]
    earliest = {line.partition(" in video ")[2] for line in told}
    plain = make_task(Run(chain.config("configs/stage1.py"), tmp_path / "other"), chain.directories)
    spread = [line for line in map(plain.describe_record, records) if "Not Present" in line]
    assert told and len(earliest) < len({line.partition(" in video ")[2] for line in spread})


def test_a_data_set_is_one_reader_and_one_line(tmp_path, monkeypatch, capsys):
    from revision_jax.data.annotations.rows import Annotations, Row

    def read_subtitles(given: Given) -> Annotations:
        """`video|start|end|sentence` a line."""
        lines = Path(given.path).read_text().split("\n")
        fields = [line.split("|") for line in lines if line]
        return Annotations([Row(str(n), v, s, ((float(a), float(b)),)) for n, (v, a, b, s) in enumerate(fields)])

    monkeypatch.setitem(DATA_SETS, "subtitles", DataSet("`video|start|end|sentence` a line", read_subtitles))
    (tmp_path / "s.txt").write_text("film|1.0|3.0|a dog runs\nfilm|5.0|8.0|the dog sleeps\n")
    (tmp_path / "features").mkdir()
    np.save(tmp_path / "features/film.npy", np.ones((20, 12), np.float16))
    (tmp_path / "clip").mkdir()
    from tiny_base import make_base

    clip = make_base(tmp_path / "base") / "clip"
    arguments = ["--annotations", str(tmp_path / "s.txt"), "--features", str(tmp_path / "features"), "--fps", "1"]
    arguments += ["--encoder", str(clip), "--out", str(tmp_path / "out"), "--split", "test"]
    assert prepare.main(["subtitles", *arguments]) == 0, capsys.readouterr()
    rows = [json.loads(line) for line in (tmp_path / "out/test/queries.jsonl").read_text().splitlines()]
    assert [row["sentence"] for row in rows] == ["a dog runs", "the dog sleeps"]
