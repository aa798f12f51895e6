import argparse

import pytest

from revision_jax.config import ConfigError
from revision_jax.evaluation.options import Options, read_options, read_settings


def test_settings_are_read_in_their_type():
    read = read_settings(["--search.beam=4", "--search.keep", "8,0.5", "--search.drop_last_frame=True"])
    assert read == {"beam": 4, "keep": (8, 0.5), "drop_last_frame": True}
    assert read_settings(["--search.confidence", "sequence_likelihood"]) == {"confidence": "sequence_likelihood"}
    args = argparse.Namespace(methods="depth1,clip", out="other", protocol="paper", memory_gib=2.0)
    assert read_options(args, []) == Options("other", "paper", {}, ("depth1", "clip"), 2.0)


@pytest.mark.parametrize("arguments, words", [
    (["--search.beams=4"], r"'--search.beams'; expected one of .*--search.keep"),
    (["--search.depth=2"], "'--search.depth'"), (["--beam=4"], "'--beam'"),
    (["--search.beam"], "without a value"), (["--search.beam=four"], "a value such as 1"),
    (["--search.beam=2.5"], "a value such as 1"),
])  # fmt: skip
def test_what_cannot_be_read_is_named(arguments, words):
    with pytest.raises(ConfigError, match=words):
        read_settings(arguments)


def test_another_search_needs_another_folder():
    for changes in ({"protocol": "paper"}, {"search": {"beam": 2}}, {"methods": ("clip",)}):
        with pytest.raises(ConfigError, match="give --out NAME"):
            Options(**changes)
        assert Options(out="other", **changes).out == "other"
