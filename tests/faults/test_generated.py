"""Hundreds of files as strangers make them, by class, from a seed: each read to the right value or a clear error, in
time, and without opening any other file. A table of the classes stands at the end of the run."""

import collections
import json

import numpy as np
import pytest

from tests.faults import kinds, texts, videos, weights
from tests.faults.cases import OUTCOMES, RIGHT, TOLD, judged
from tests.faults.server import Server
from tests.faults.trace import strangers

pytestmark = [pytest.mark.faults, pytest.mark.parity]
SEED, LIMIT_S = 17, 60
OPENED = "other files opened"
COLUMNS = (*OUTCOMES, OPENED)
READERS = {
    "video": videos.KINDS,
    "annotations": texts.ANNOTATIONS,
    "queries": texts.QUERIES,
    "sentences": texts.SENTENCES,
}
READERS |= weights.READERS | {"form": kinds.KINDS}


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """(reader, class, case, outcome, what was found, what else was opened) of every file."""
    folder, rng = tmp_path_factory.mktemp("strangers"), np.random.default_rng(SEED)
    made = [
        (reader, name, case)
        for reader, kinds in READERS.items()
        for name, cases in texts.same_seed(kinds, folder / reader, rng).items()
        for case in cases
    ]
    ended = []
    with Server(traced=folder / "trace") as server:
        for number, (reader, _, case) in enumerate(made):
            argv = [str(number), reader, str(case.path), json.dumps(case.how)]
            ended.append(server("tests.faults.reading:main", *argv, limit_s=LIMIT_S))
    opened = collections.defaultdict(set)
    named = {number: [str(case.path), *case.also] for number, (_, _, case) in enumerate(made)}
    for number, what in strangers(folder / "trace", named):
        opened[number].add(what)
    assert not list(folder.rglob("witness")), "code of a stranger ran"
    return [(*row, *judged(row[2], done), opened[number]) for number, (row, done) in enumerate(zip(made, ended))]


def table(read):
    """A line a class."""
    counted = collections.defaultdict(collections.Counter)
    for reader, name, _, outcome, _, opened in read:
        counted[f"{reader}: {name}"] += collections.Counter([outcome, OPENED] if opened else [outcome])
    counted["together"] = sum(counted.values(), collections.Counter())
    lines = [f"{'class':62} files  " + "  ".join(COLUMNS)]
    for name, row in counted.items():
        counts = "  ".join(f"{row[column]:{len(column)}}" for column in COLUMNS)
        lines.append(f"{name:62} {sum(row[one] for one in OUTCOMES):5}  {counts}")
    return "\n".join(lines)


def test_each_is_right_or_told_and_no_other_file_is_opened(read, record_property):
    record_property("told", table(read))
    faults = [
        f"{reader}, {name}: {case.path}: {outcome}: {found}; opened {sorted(opened)}"
        for reader, name, case, outcome, found, opened in read
        if outcome not in (RIGHT, TOLD) or opened
    ]
    assert not faults, "\n".join(faults)
    assert len(read) >= 300
