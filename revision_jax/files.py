"""Small files that are whole or not there: JSON for results, text. A folder that one process alone writes to."""

import contextlib
import fcntl
import json
import logging
import math
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from revision_jax.disk import room_in

LOCK = ".lock"  # in a folder that is written to: whose it is
log = logging.getLogger(__name__)


class FolderInUse(OSError):
    """Another process writes to a folder."""


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Only one process at a time is within this, for a folder, which is made; the end of a process, also by a kill,
    leaves it. On a file system that knows no locks there is a warning only.

    Raises:
      FolderInUse: names the host and the process that is there.
      FullDisk: names the folder, whatever was being written there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise FolderInUse(
                f"{folder} is in use by {file.read().strip() or 'another process'}; wait until it ends, or give "
                "another folder."
            ) from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): see that no second process writes there", folder, error.strerror)
        with room_in(folder):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes JSON, whole or not at all; see `plain`."""
    write_text(path, json.dumps(plain(values), indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def plain(value: Any) -> Any:
    """What JSON gives back: lists for tuples, names for keys, None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any | None:
    """What `write_json` wrote, or None where there is nothing readable."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
