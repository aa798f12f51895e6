"""A full disk: one line that names the place, whatever library met it and however that says so."""

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SAID = re.compile(r"No space left on device|Disk quota exceeded|File too large|os error (28|122|27)\b")
PLACE = re.compile(r"(?<![\w.])/[^\s\"';,]+")  # an absolute path within a message


class FullDisk(OSError):
    """A disk is full, or a limit on it is reached."""


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, comes from a full disk."""
    return any(getattr(one, "errno", None) in FULL or SAID.search(str(one)) for one in _chain(error))


def told(error: BaseException, place: Path | None = None) -> str:
    """What a person is told of it in one line.

    Args:
      place: a folder or file on that disk; by default what the error names.
    """
    place = place or next(filter(None, map(_place, _chain(error))), None)
    if place is None:
        return "a disk is full. What is finished is whole: make room, and the same command goes on"
    near = next(path for path in (place, *place.absolute().parents) if path.exists())
    free = shutil.disk_usage(near).free / 2**20
    return (
        f"no space left on the disk of {place}; {free:.0f} MiB are free. What is finished is whole: make room, and the "
        "same command goes on"
    )


@contextlib.contextmanager
def room_in(place: Path) -> Iterator[None]:
    """What a full disk raises within this becomes `FullDisk`, which names the folder or file."""
    try:
        yield
    except FullDisk:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise FullDisk(told(error, place)) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from, or while they were handled."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def _place(error: BaseException) -> Path | None:
    """The file that an error names."""
    for name in (getattr(error, "filename2", None), getattr(error, "filename", None)):
        if isinstance(name, str):
            return Path(name)
    found = PLACE.search(str(error))
    return Path(found[0]) if found else None
