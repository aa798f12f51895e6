"""The folder that a conversion writes, with a manifest: whole or not at all; a stopped conversion goes on."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import rich.console
import rich.progress

from revision_jax.disk import FullDisk, room_in
from revision_jax.text import read_object

MANIFEST = "manifest.json"
_IDENTITY = "unfinished.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "preprocessor_config.json",
    "generation_config.json",
)


def check_free(out: str | Path) -> None:
    """Raises ValueError where `out` is there already; for callers with much to read before they write."""
    if Path(out).exists():
        raise ValueError(f"{out} exists already; remove it, or give another --out")


@contextlib.contextmanager
def output_folder(out: str | Path, identity: Mapping[str, Any]) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when the block ends without an error.

    After a kill it stays, and the next call with the same `identity` (format, dtype, hashes of the sources) finds what
    was written; after an error it is removed. A full disk leaves it too: the same command goes on.

    Raises:
      ValueError: `out` is there already.
      FullDisk: names `out`.
    """
    check_free(out)
    out = Path(out)
    partial = out.with_name(f"{out.name}.partial")
    named = partial / _IDENTITY
    # Through JSON, as it comes back from the file.
    identity = json.loads(json.dumps(identity, default=str))
    if partial.exists() and (not named.is_file() or read_object(named) != identity):
        shutil.rmtree(partial)
    with room_in(out):
        partial.mkdir(parents=True, exist_ok=True)
        if not named.is_file():
            write_json(named, identity)
    try:
        with room_in(out):
            yield partial
    except FullDisk:
        raise
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    named.unlink()
    os.replace(partial, out)


def write_json(path: Path, content: Any) -> None:
    """Whole or not at all."""
    path.with_suffix(".json.tmp").write_text(json.dumps(content, indent=2) + "\n")
    os.replace(path.with_suffix(".json.tmp"), path)


def copy_tokenizer(source: str | Path, target: str | Path) -> list[str]:
    """Copies the files of a tokenizer, of image preprocessing and of generation that are there; returns their names."""
    names = [name for name in TOKENIZER_FILES if (Path(source) / name).is_file()]
    for name in names:
        shutil.copyfile(Path(source) / name, Path(target) / name)
    return names


@contextlib.contextmanager
def byte_progress(label: str, total: int) -> Iterator:
    """A progress bar over bytes on stderr, where that is a terminal; yields `advance(count)`."""
    console = rich.console.Console(stderr=True)
    columns = (
        "{task.description}",
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(binary_units=True),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)
