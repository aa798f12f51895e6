"""Charades-STA's annotations: `charades_sta_{train,test}.txt`, a line `AO8RW 0.0 6.9##a person puts a book down.`"""

import os
import pathlib
from collections.abc import Iterator

from revision_jax.data.annotations.rows import Annotations, Row, read_rows
from revision_jax.text import read_lines


def read_charades(path: str | os.PathLike) -> Annotations:
    """Rows of a file; a query's id is `VIDEO/line number`, for the file names none."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected charades_sta_train.txt or charades_sta_test.txt")

    def parse(item: tuple[int, str]) -> Iterator[Row]:
        number, line = item
        place, mark, sentence = line.partition("##")
        fields = place.split()
        if not mark or len(fields) != 3:
            raise ValueError(f"found {line[:60]!r}; expected `video start end##sentence`")
        video_id, start, end = fields
        yield Row(f"{video_id}/{number}", video_id, sentence.strip(), ((float(start), float(end)),))

    lines = [(number, line) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    return Annotations(*read_rows([(f"{path.name} line {item[0]}", item) for item in lines], parse))
