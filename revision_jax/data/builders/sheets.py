"""Tables of events: a CSV with a header `video,start,end,sentence`, and ELAN's tab-delimited export of one video."""

import csv
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence

from revision_jax.data.annotations.gaps import Gap
from revision_jax.data.annotations.rows import read_rows
from revision_jax.data.builders.events import Event, read_time
from revision_jax.text import read_lines

COLUMNS = ("video", "start", "end", "sentence")
DELIMITERS = ",;\t"
FULL_CLOCK = re.compile(r"\d+:\d\d:\d\d[.,]\d+", re.ASCII)
UNITS: dict[str, Callable[[str], float]] = {  # how ELAN's headings end, the longest first
    "hh:mm:ss.ms": read_time,
    "ss.msec": read_time,
    "msec": lambda text: read_time(text) / 1000,
}
OTHER = ("begin time", "end time", "duration", "tier", "participant", "filename", "file")  # no column of sentences
Found = tuple[list[Event], list[Gap], list[str]]


def read_sheet(path: pathlib.Path, name: str) -> Found:
    """The events, gaps and notes of a table, whichever it is.

    Args:
      name: id of the video of a table that names none: ELAN's.

    Raises:
      ValueError: it is neither.
    """
    lines = read_lines(path)
    first = next((line for line in lines if line.strip()), "")
    for delimiter in DELIMITERS:
        names = [cell.strip(' "').lower() for cell in first.split(delimiter)]
        if set(COLUMNS) <= set(names):
            return _read_csv(path, lines, delimiter, names)
    if "\t" in "".join(lines):
        return _read_elan(path, lines, name)
    raise ValueError(
        f"{path}:1: found {first!r:.80}; expected a header with the columns {','.join(COLUMNS)}, or ELAN's "
        "tab-delimited text"
    )


def _read_csv(path: pathlib.Path, lines: Sequence[str], delimiter: str, names: Sequence[str]) -> Found:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}:1: the columns {', '.join(twice)} stand twice; expected each once")
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)

    def rows() -> Iterator[tuple[str, list[str]]]:
        header, before = True, 0
        try:
            for cells in reader:
                line, before = before + 1, reader.line_num
                if any(cell.strip() for cell in cells) and not header:
                    yield f"{path.name}:{line}", cells
                header = header and not any(cell.strip() for cell in cells)
        except csv.Error as error:
            raise ValueError(f"{path}:{reader.line_num}: {error}; expected a CSV with quotes closed") from error

    def parse(cells: list[str]) -> Iterator[Event]:
        if len(cells) != len(names):
            raise ValueError(f"found {len(cells)} columns; expected {len(names)}, as the header ({', '.join(names)})")
        row = dict(zip(names, cells))
        times = row["start"].strip(), row["end"].strip()
        moment = (read_time(times[0]), read_time(times[1])) if any(times) else None
        yield Event(row["video"].strip(), row["sentence"], moment)

    more = [name for name in names if name not in COLUMNS]
    notes = [f"{path.name}: columns that are not read: {', '.join(more)}"] if more else []
    return *read_rows(rows(), parse), notes


def _read_elan(path: pathlib.Path, lines: Sequence[str], name: str) -> Found:
    """Of a table with headings every other column is a tier; without, the last one is the sentence."""
    rows = [(f"{path.name}:{number}", line.split("\t")) for number, line in enumerate(lines, 1)]
    rows = [(where, cells) for where, cells in rows if any(cell.strip() for cell in cells) and cells[0][:2] != '"#']
    rows = [(where, cells) for where, cells in rows if not cells[0].startswith("#")]
    headed = bool(rows) and any(cell.lower().startswith("begin time") for cell in rows[0][1])
    if not headed:
        return *read_rows(rows, lambda cells: [_without_heading(cells, name)]), []
    (where, names), *rows = rows
    names = [cell.strip().lower() for cell in names]
    begin, end = (
        _time_column(f"{path}:{where.rpartition(':')[2]}", names, kind) for kind in ("begin time", "end time")
    )
    tiers = [place for place, heading in enumerate(names) if heading and not heading.startswith(OTHER)]

    def parse(cells: list[str]) -> Iterator[Event]:
        moment = begin(cells), end(cells)
        yield from (Event(name, cells[place], moment) for place in tiers if place < len(cells) and cells[place].strip())

    return *read_rows(rows, parse), []


def _time_column(where: str, names: Sequence[str], kind: str) -> Callable[[Sequence[str]], float]:
    """Reads the seconds of `begin time - hh:mm:ss.ms` from a row."""
    for unit, read in UNITS.items():
        for place, heading in enumerate(names):
            if heading.startswith(kind) and heading.endswith(unit):
                return lambda cells: read(cells[place])
    raise ValueError(f"{where}: found no column {kind!r} in {' or '.join(UNITS)}; expected begin and end time")


def _without_heading(cells: Sequence[str], name: str) -> Event:
    """Tier, participant, begin, end, duration in several forms, value: the clocks come in this order."""
    clocks = [read_time(cell) for cell in cells if FULL_CLOCK.fullmatch(cell.strip())]
    wrong = len(clocks) == 3 and abs(clocks[1] - clocks[0] - clocks[2]) > 0.002
    if len(clocks) not in (2, 3) or wrong:
        raise ValueError(
            f"found {len(clocks)} times as hh:mm:ss.ms; expected begin and end time, which ELAN's export of "
            "tab-delimited text has with these boxes ticked"
        )
    return Event(name, cells[-1], (clocks[0], clocks[1]))
