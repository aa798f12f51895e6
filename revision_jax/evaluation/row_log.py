"""Answers to held-out rows that survive a kill: `questions.jsonl`, a line a batch.

The first line says what the answers belong to; a file of another identity is begun anew. A line holds the answers of
some rows of one question in order: `{"question": "groups of 48", "model": "trained", "answers": [[3, 5], ...]}`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from revision_jax.evaluation.predictions import append_lines, whole_lines
from revision_jax.files import write_text

Answers = list[list[float]]


class RowLog:
    """The answers of one evaluation, appended a batch at a time.

    Args:
      path: the file.
      identity: what the answers depend on: model, data, seed.
    """

    def __init__(self, path: Path, identity: str):
        self.path, header = path, {"evaluation": identity}
        lines = whole_lines(path)
        kept = lines[1:] if lines[:1] == [header] else []
        write_text(path, "".join(json.dumps(line) + "\n" for line in [header, *kept]))
        self._answers: dict[tuple[str, str], Answers] = {}
        for line in kept:
            self._answers.setdefault((line["question"], line["model"]), []).extend(line["answers"])

    def get(self, question: str, model: str) -> Answers:
        """The answers so far, from the first row on."""
        return self._answers.setdefault((question, model), [])

    def append(self, question: str, model: str, answers: Sequence[Sequence[float]]) -> None:
        """Writes the answers of the next rows."""
        rows = [list(map(float, answer)) for answer in answers]
        append_lines(self.path, [{"question": question, "model": model, "answers": rows}])
        self.get(question, model).extend(rows)
