"""The video files among what a person names: files, and folders of them."""

import os
from collections.abc import Iterable
from pathlib import Path

from revision_jax.rules import check_local

# Endings that files of a folder are taken by; a file that is named itself may have any.
ENDINGS = (
    *(".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv"),
    *(".ts", ".vob", ".webm", ".wmv"),
)


def is_path(text: str) -> bool:
    """Whether an argument names a file or folder, there or not, and is no sentence."""
    return os.path.exists(text) or text.lower().endswith(ENDINGS) or (os.sep in text and " " not in text)


def find_videos(paths: Iterable[str]) -> list[str]:
    """Files as they are named, there or not, and those of folders below by their endings; none twice.

    Raises:
      ValueError: a folder without a video; an address such as gs://.
    """
    found: dict[str, None] = {}
    for path in paths:
        check_local("VIDEO", path)
        if not os.path.isdir(path):
            found[path] = None
            continue
        inside = sorted(str(file) for file in Path(path).rglob("*") if _is_video(file))
        if not inside:
            raise ValueError(f"{path} holds no video; expected files that end in one of {' '.join(ENDINGS)}")
        found |= dict.fromkeys(inside)
    return list(found)


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in ENDINGS and not file.name.startswith(".") and file.is_file()
