"""Tiny pretrained parts, shared by the tests of this room."""

import pytest


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Directory of tiny random pretrained parts; do not change it."""
    from tiny_base import make_base

    return make_base(tmp_path_factory.mktemp("base"))
