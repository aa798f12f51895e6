"""Answers to held-out rows that survive a kill: `questions.jsonl`, a line a batch.

The first line says what the answers belong to; a file of another identity is begun anew. A line holds the answers of
some rows of one question in order, the number of the first of these rows, and a checksum:
`{"question": "groups of 48", "model": "trained", "first": 0, "answers": [[3, 5], ...], "sha256": ...}`.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from revision_jax.files import write_text
from revision_jax.logs import append_lines, is_sealed, left_out, read_log, sealed

FORMAT = 2  # of the lines; another one starts the file anew
Answers = list[list[float]]
log = logging.getLogger(__name__)


class RowLog:
    """The answers of one evaluation, appended a batch at a time.

    Args:
      path: the file.
      identity: what the answers depend on: model, data, seed.
    """

    def __init__(self, path: Path, identity: str):
        self.path, self._header = path, {"evaluation": identity, "format": FORMAT}
        self._answers: dict[tuple[str, str], Answers] = {}
        kept = [self._header, *self._read(path)]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def _read(self, path: Path) -> list[dict]:
        """Takes in the lines of a file, if it is of this identity, and returns those that are used."""
        lines, kept = read_log(path), []
        if lines and lines[0].value != self._header:
            log.warning("%s belongs to another evaluation: of another model, data or rows; it is begun anew", path)
            return []
        for number, line in lines[1:]:
            if not is_sealed(line, self._header):
                left_out(path, number, "it is not what was written")
            elif line["first"] != len(answers := self.get(line["question"], line["model"])):
                left_out(path, number, f"rows from {line['first']} follow {len(answers)} rows")
            else:
                answers.extend(line["answers"])
                kept.append(line)
        return kept

    def get(self, question: str, model: str) -> Answers:
        """The answers so far, from the first row on."""
        return self._answers.setdefault((question, model), [])

    def append(self, question: str, model: str, answers: Sequence[Sequence[float]]) -> None:
        """Writes the answers of the next rows."""
        rows, have = [list(map(float, answer)) for answer in answers], self.get(question, model)
        line = {"question": question, "model": model, "first": len(have), "answers": rows}
        append_lines(self.path, [sealed(line, self._header)])
        have.extend(rows)
