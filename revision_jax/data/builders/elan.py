"""ELAN's own files (.eaf, XML): each annotation with times of its own is an event.

The XML is read by a parser that knows no entity but XML's own five: a file that declares a document type is refused.
"""

import dataclasses
import pathlib
import xml.parsers.expat

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.annotations.rows import read_rows
from revision_jax.data.builders.events import Event
from revision_jax.text import read_text


@dataclasses.dataclass
class _Mark:
    """An annotation as it stands in the file."""

    where: str
    name: str
    slots: tuple[str, str]
    text: str = ""


class _Document:
    """What the parser has seen of a file."""

    def __init__(self, path: pathlib.Path):
        self.path, self.marks, self.media, self.dependent = path, [], [], 0
        self.times: dict[str, str | None] = {}
        self.root = ""
        self._open: _Mark | None = None  # whose value comes next
        self._in_value = False
        self.parser = xml.parsers.expat.ParserCreate("UTF-8")
        self.parser.StartDoctypeDeclHandler = self._refuse
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text

    def _refuse(self, *_) -> None:
        line = self.parser.CurrentLineNumber
        raise ValueError(f"{self.path}:{line}: declares a document type; expected an .eaf as ELAN writes it, without")

    def _start(self, tag: str, fields: dict[str, str]) -> None:
        self.root = self.root or tag
        if tag == "TIME_SLOT":
            self.times[fields.get("TIME_SLOT_ID", "")] = fields.get("TIME_VALUE")
        elif tag == "MEDIA_DESCRIPTOR":
            self.media += [url for key in ("MEDIA_URL", "RELATIVE_MEDIA_URL") if (url := fields.get(key))]
        elif tag == "ALIGNABLE_ANNOTATION":
            slots = fields.get("TIME_SLOT_REF1", ""), fields.get("TIME_SLOT_REF2", "")
            where = f"{self.path.name}:{self.parser.CurrentLineNumber}"
            self._open = _Mark(where, fields.get("ANNOTATION_ID", ""), slots)
            self.marks.append(self._open)
        elif tag == "REF_ANNOTATION":
            self.dependent += 1
        self._in_value = tag == "ANNOTATION_VALUE"

    def _end(self, tag: str) -> None:
        self._in_value = False
        if tag == "ALIGNABLE_ANNOTATION":
            self._open = None

    def _text(self, text: str) -> None:
        if self._in_value and self._open is not None:
            self._open.text += text

    def seconds(self, slot: str) -> float:
        value = self.times.get(slot)
        if value is None or not (value.isascii() and value.isdigit()):
            raise ValueError(f"its time slot {slot!r} is {value!r}; expected a TIME_VALUE in milliseconds")
        return int(value) / 1000


def read_eaf(path: pathlib.Path, name: str) -> tuple[list[Event], list[Gap], list[str]]:
    """The events, gaps and notes of a file about one video, `name`.

    Raises:
      ValueError: no XML, no ELAN document, or one with a document type.
    """
    document = _Document(path)
    try:
        document.parser.Parse(read_text(path).encode(), True)
    except xml.parsers.expat.ExpatError as error:
        raise ValueError(f"{path}:{error.lineno}: no XML ({error}); expected an .eaf of ELAN") from error
    if document.root != "ANNOTATION_DOCUMENT":
        raise ValueError(f"{path}:1: found <{document.root:.40}>; expected <ANNOTATION_DOCUMENT>, an .eaf of ELAN")

    def parse(mark: _Mark) -> list[Event]:
        start, end = map(document.seconds, mark.slots)
        return [Event(name, mark.text, (start, end))]

    events, gaps = read_rows([(f"{mark.where} {mark.name}".strip(), mark) for mark in document.marks], parse)
    left_out = f"{path.name}: {document.dependent} annotations without times of their own are not read"
    return events, gaps, [left_out] if document.dependent else []
