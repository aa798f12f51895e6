"""Makes `fake_run` and `tiny_base` importable here and, by path, in subprocesses."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Directory of tiny random pretrained parts; do not change it."""
    from tiny_base import make_base

    return make_base(tmp_path_factory.mktemp("base"))
