"""What the tests of faults share: a server that forks verbs, and a finished run."""

import pytest

from tests.faults.server import Server


@pytest.fixture(scope="session")
def server():
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def made(server, tmp_path_factory):
    """A folder with `base`, `data`, `films`, `films.jsonl` and the finished run `run`; do not change it."""
    folder = tmp_path_factory.mktemp("made")
    done = server("tests.faults.world:make", str(folder), limit_s=300)
    assert done.code == 0, done.err
    return folder
