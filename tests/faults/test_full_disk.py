"""Full disks: every verb on a file system of some kilobytes, then with room. Needs root, to mount one."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults import world

pytestmark = pytest.mark.faults
ROOM = 100_000  # KiB


class Disk:
    """A file system in memory."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}k", "tmpfs", folder], check=True)

    def leave(self, kib: int) -> None:
        """So much room is left, in pages of 4 KiB."""
        now = os.statvfs(self.folder)
        self.resize((now.f_blocks - now.f_bfree) * now.f_frsize // 1024 + kib)

    def resize(self, kib: int) -> None:
        for more in range(0, ROOM, 4):
            command = ["mount", "-o", f"remount,size={max(kib, 4) + more}k", self.folder]
            if subprocess.run(command, capture_output=True).returncode == 0:
                return


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(["umount", "-l", disk.folder], check=True)


def commands(folder, out):
    run, data = folder / "run", out / "data"
    export = lambda form: ["export", "--workdir", run, "--out", out / "export", "--format", form]
    return {
        "train": ["train", *world.train_argv(folder, out / "run")],
        "prepare": ["prepare", *world.prepare_argv(folder, data)],
        "report": ["prepare", "report", data],
        "check": ["prepare", "check", data],
        "evaluate": ["evaluate", "--workdir", out / "run"],
        **{form: export(form) for form in ("huggingface", "revisionllm", "peft", "bundle")},
    }


CASES = [
    *(("train", kib) for kib in (0, 8, 100, 250, 400)),
    *(("prepare", kib) for kib in (0, 8, 30, 40, 80)),
    *(("report", kib) for kib in (0, 30)),
    ("check", 0),
    *(("evaluate", kib) for kib in (0, 30, 60)),
    *(("huggingface", kib) for kib in (0, 30, 100)),
    *(("revisionllm", kib) for kib in (4, 8, 12)),
    *(("peft", kib) for kib in (0, 8)),
    *(("bundle", kib) for kib in (4, 60, 300)),
]


@pytest.mark.parametrize("name, kib", CASES)
def test_one_line_and_the_same_command_goes_on(server, made, disk, name, kib):
    command = commands(made, disk.folder)[name]
    if name == "evaluate":
        shutil.copytree(made / "run", disk.folder / "run", ignore=shutil.ignore_patterns("eval", "events*"))
    if name in ("report", "check"):
        server.verb(*commands(made, disk.folder)["prepare"])
    disk.leave(kib)
    done = server.verb(*command)
    assert done.code == 2 and "revision_jax/" not in done.err.replace(str(disk.folder), ""), done.err
    assert done.err.count("error: ") == 1 and "no space left on the disk of" in done.err, done.err
    disk.resize(ROOM)
    again = server.verb(*command)
    assert again.code == 0, again.err
    if name == "train":
        assert (disk.folder / "run/metrics.jsonl").read_text() == (made / "run/metrics.jsonl").read_text()


def test_without_room_for_compiled_programs_a_verb_answers(made, disk, tmp_path):
    from tests.faults.server import Server

    disk.leave(0)
    film = next((made / "films").iterdir())
    with Server({"JAX_COMPILATION_CACHE_DIR": str(disk.folder / "cache")}) as server:
        done = server.verb("ground", film, "a red ball", "--workdir", made / "run")
    assert done.code == 0, done.err
