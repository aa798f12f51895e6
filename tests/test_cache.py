"""The cache folder, and the programs that a verb keeps there."""

import os
from pathlib import Path

import pytest

from revision_jax import cache
from tests.forced_devices import run_python

COMPILE = """
from revision_jax import cache
cache.keep_programs()
import jax
jax.jit(lambda x: jax.numpy.linalg.svd(x @ x.T)[1])(jax.numpy.ones((40, 40)))
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.fixture(autouse=True)
def own_settings(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REVISION_JAX_CACHE", str(tmp_path / "cache"))


def test_compiled_programs_are_kept_in_the_cache_folder_up_to_a_size(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    assert run_python(COMPILE, 1).strip() == str(tmp_path / "cache/compiled")
    files = [path.name for path in (tmp_path / "cache/compiled").iterdir()]
    assert any(name.endswith("-cache") for name in files)
    assert any(name.endswith("-atime") for name in files), "JAX keeps times of use where the size has a bound"


def test_a_folder_that_was_chosen_stays(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    cache.keep_programs()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "own") and not Path(tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_made_is_told(monkeypatch, tmp_path, caplog):
    (tmp_path / "cache").touch()
    cache.keep_programs()
    assert "compiled again at every start" in caplog.text and "JAX_COMPILATION_CACHE_DIR" not in os.environ
