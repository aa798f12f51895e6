"""Text and JSON that somebody else wrote: UTF-8, lines that end at a line feed and nowhere else, clear errors.

`str.splitlines` also splits at U+2028, U+0085 and others, which a sentence may hold; it is for no file.
"""

import codecs
import json
import os
import pathlib
from typing import Any

MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: str | os.PathLike) -> str:
    """The text of a UTF-8 file, without the byte order mark that it may begin with.

    Raises:
      ValueError: another encoding; the message names the file, the byte and what to do.
    """
    data = pathlib.Path(path).read_bytes()
    mark = next((name for start, name in MARKS.items() if data.startswith(start)), None)
    if mark is not None:
        raise _not_utf8(path, f"{mark} text (it begins with the bytes {data[:2].hex(' ')})", mark)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + len(data) - len(error.object)  # the decoder sees no byte order mark
        line = data.count(b"\n", 0, at) + 1
        raise _not_utf8(path, f"byte 0x{data[at]:02x} at {at} (line {line})", "latin1") from error
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise _not_utf8(path, f"a zero byte (line {line}), as in UTF-16 text without a mark", "UTF-16LE")
    return text


def _not_utf8(path, found: str, guess: str) -> ValueError:
    name = pathlib.Path(path).name
    return ValueError(
        f"{path}: found {found}; expected UTF-8. Convert it, if it is {guess}: iconv -f {guess} -t UTF-8 {name} > NEW"
    )


def read_lines(path: str | os.PathLike) -> list[str]:
    """The lines of a UTF-8 file, without their ends: a line feed, or carriage return and line feed.

    Raises:
      ValueError: as `read_text`.
    """
    return split_lines(read_text(path))


def split_lines(text: str) -> list[str]:
    """Lines that end at a line feed, or carriage return and line feed; the last may have no end."""
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def read_jsonl(path: str | os.PathLike) -> list[Any]:
    """The values of a file with one JSON value a line; empty lines are passed over.

    Raises:
      ValueError: as `read_text`, or a line that is no JSON; the message names file and line.
    """
    values = []
    for number, line in enumerate(read_lines(path), 1):
        try:
            values += [parse_json(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}; expected one JSON value") from error
    return values


def read_object(path: str | os.PathLike) -> dict[str, Any]:
    """A small JSON file that holds one object; for every config, index and manifest.

    Raises:
      FileNotFoundError: there is none.
      ValueError: as `read_text`; no JSON, nested too deep, or not an object. The message names the file.
    """
    text = read_text(path)
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds {type(value).__name__}; expected a JSON object")
    return value


def is_unicode(text: str) -> bool:
    """Whether it can be written as UTF-8: JSON, and names of files, may hold half of a pair of surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def is_name(text: str) -> bool:
    """Whether it can be an id: Unicode without control characters."""
    return is_unicode(text) and not any(c < " " or "\x7f" <= c < "\xa0" for c in text)


def parse_json(text: str) -> Any:
    """One JSON value.

    Raises:
      ValueError: no JSON, or nested deeper than Python reads.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep; expected a few levels") from error
