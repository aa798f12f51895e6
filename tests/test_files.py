"""Small files that are whole or not there."""

import numpy as np
import pytest

from revision_jax.files import read_json, write_json


def test_json_holds_no_nan(tmp_path):
    write_json(tmp_path / "m.json", {"a": float("nan"), "b": [1.5, float("inf")], "c": {"d": np.float64(2)}})
    assert read_json(tmp_path / "m.json") == {"a": None, "b": [1.5, None], "c": {"d": 2.0}}
    assert read_json(tmp_path / "none.json") is None
    with pytest.raises(FileNotFoundError):
        (tmp_path / "m.json.tmp").read_text()
