"""Subtitles (.srt, .vtt) of one video: a cue is an event."""

import html
import pathlib
import re
from collections.abc import Iterator, Sequence

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.annotations.rows import read_rows
from revision_jax.data.builders.events import Event, read_time
from revision_jax.text import read_lines

ARROW = "-->"
MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # <i>, <v Ann>, <00:01.000>, {\an8}
NO_CUES = ("WEBVTT", "NOTE", "STYLE", "REGION")  # how other blocks of a .vtt begin


def read_subtitles(path: pathlib.Path, name: str) -> tuple[list[Event], list[Gap], list[str]]:
    """The events, gaps and notes of a file about one video, `name`.

    Raises:
      ValueError: it has no cue.
    """
    blocks = list(_blocks(path.name, read_lines(path)))
    if path.suffix.lower() == ".vtt":
        blocks = [(where, lines) for where, lines in blocks if not lines[0].startswith(NO_CUES) or ARROW in lines[0]]
    if not any(ARROW in line for _, lines in blocks for line in lines):
        raise ValueError(f"{path}:1: no cue; expected lines such as 00:00:01,000 {ARROW} 00:00:02,500, then text")
    return *read_rows(blocks, lambda lines: [_cue(lines, name)]), []


def _blocks(name: str, lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Runs of lines between empty ones, each with its place, `film.srt:12`."""
    block: list[str] = []
    for number, line in enumerate([*lines, ""], 1):
        if line.strip():
            block.append(line.strip())
        elif block:
            yield f"{name}:{number - len(block)}", block
            block = []


def _cue(lines: Sequence[str], name: str) -> Event:
    """A number or name, which may be missing; the times; the text."""
    place = next((place for place, line in enumerate(lines[:2]) if ARROW in line), None)
    if place is None:
        raise ValueError(f"found {lines[0]!r:.60}; expected times such as 00:00:01,000 {ARROW} 00:00:02,500")
    start, _, rest = lines[place].partition(ARROW)
    end = (rest.split() or [""])[0]  # settings of a cue follow
    text = html.unescape(MARKUP.sub("", " ".join(lines[place + 1 :])))
    return Event(name, text, (read_time(start), read_time(end)))
