"""A full disk: recognised whatever library says so, told in one line with the place, exit code 2."""

import argparse
import errno

import numpy as np
import pytest
from safetensors import SafetensorError

from revision_jax import disk, verb
from revision_jax.files import alone_in
from revision_jax.interop.output import output_folder
from revision_jax.interop.torch_files import save_torch

ARRAYS = {"a": np.zeros((1000, 100), np.float32)}


def by_context(path):
    try:
        path.write_text("x" * 10**5)
    except OSError:
        raise KeyError("while it was handled") from None


def by_rust(path):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


FAILS = {
    "text": lambda path: path.write_text("x" * 10**5),
    "safetensors": by_rust,  # it replaces its file: never give it a device
    "torch": lambda path: save_torch(ARRAYS, path),
    "an error behind another": by_context,
}


@pytest.fixture
def full(tmp_path):
    """A file that cannot be written: every write fails as on a full disk."""
    (tmp_path / "full").symlink_to("/dev/full")
    return tmp_path / "full"


@pytest.mark.parametrize(
    "fails",
    [pytest.param(fails, id=name, marks=[pytest.mark.parity] * (name == "torch")) for name, fails in FAILS.items()],
)
def test_every_library_is_understood(fails, full, tmp_path, capsys):
    def work(args):
        with disk.room_in(tmp_path / "out"):
            fails(full)

    assert verb.run(work, argparse.Namespace(debug=False)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: no space left on the disk of {tmp_path / 'out'}; ") and err.count("\n") == 1
    assert verb.run(lambda args: fails(full), argparse.Namespace(debug=False)) == 2  # where nobody says where it was
    assert "is full" in (err := capsys.readouterr().err) or "no space left" in err


@pytest.mark.parametrize(
    "error, place",
    [
        (OSError(errno.ENOSPC, "No space left on device", "/tmp/a"), "/tmp/a"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/usr/b", None, "/tmp/c"), "/tmp/c"),
        (RuntimeError("write() failed: No space left on device; writing /tmp/d/e.f-0; at byte 3"), "/tmp/d/e.f-0"),
        (ValueError("RESOURCE_EXHAUSTED: No space left on device"), None),
    ],
)
def test_the_place_is_what_the_error_names(error, place):
    assert disk.is_full(error)
    assert (f"the disk of {place};" if place else "a disk is full") in disk.told(error)


def test_other_errors_stay_as_they_are(tmp_path):
    assert not disk.is_full(OSError(errno.EACCES, "Permission denied"))
    with pytest.raises(KeyError), disk.room_in(tmp_path):
        raise KeyError("a")


def test_a_folder_of_results_and_of_an_export_name_themselves(full, tmp_path):
    with pytest.raises(disk.FullDisk, match="run;"), alone_in(tmp_path / "run"):
        FAILS["text"](full)
    with pytest.raises(disk.FullDisk, match="out;"), output_folder(tmp_path / "out", {"a": 1}) as folder:
        (folder / "b").write_text("whole")
        by_rust(full)
    assert (tmp_path / "out.partial/b").read_text() == "whole"  # the same command goes on
    with output_folder(tmp_path / "out", {"a": 1}) as folder:
        assert (folder / "b").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "out", "run"]
