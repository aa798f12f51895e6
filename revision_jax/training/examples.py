"""What a validation shows beside numbers: answers of held-out rows against their targets, as text and as timelines.

Letters: B batch, G questions a window (left out when 1), n windows a group, F frames a window, D width, T text tokens.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from revision_jax.prompts import dense_answers, group_answers, presence_answers, video_answers
from revision_jax.report.plots import Bars, bars_of_answers

SHOWN = 4  # rows of each kind of batch


@dataclasses.dataclass(frozen=True)
class Readers:
    """How held-out rows are told to people.

    Attributes:
      describe: of each data set of `Task.validation`: record id -> what the row is.
      text: tokens `[n]` -> their text.
      end: the token that ends an answer.
    """

    describe: Sequence[Callable[[int], str]]
    text: Callable[[Sequence[int]], str]
    end: int


@dataclasses.dataclass(frozen=True)
class Example:
    """One held-out row: what it is, the right answer and the model's.

    places, parts: what answers count, and how many of them there are: the windows of a group, else frames.
    """

    about: str
    target: str
    answer: str
    parts: int
    places: str = "frame"

    @property
    def bars(self) -> Bars:
        """The two answers as intervals of `parts`."""
        name = self.target if self.target == self.answer else f"{self.target} | {self.answer}"
        return Bars(name, self.parts, *(self._interval(text) for text in (self.target, self.answer)))

    def _interval(self, text: str) -> tuple[int, int] | None:
        """[start, end) of an answer; None for one that names no interval, or is none."""
        return _intervals(self.parts, self.places).get(text)


@functools.lru_cache(maxsize=4)
def _intervals(parts: int, places: str) -> dict[str, tuple[int, int]]:
    """Answer -> [start, end), of the answers that name an interval."""
    if places == "frame":
        known = {text: (start, last + 1) for text, (start, last) in dense_answers(parts).items()}
    else:
        known = group_answers(parts) | video_answers(parts) | presence_answers()
    return {text: interval for text, interval in known.items() if interval[0] >= 0}


def read_examples(readers: Readers, number: int, batch: Mapping[str, np.ndarray], answers: np.ndarray) -> list[Example]:
    """The first `SHOWN` rows of a batch of the data set `number`, of each its first question.

    Args:
      batch: as in `train_step`, with `record_id [B]`.
      answers: `[B, (G,) T]` int32, the batch's tokens with the model's answers in place of the right ones.
    """
    video = batch["video"]
    parts, places = video.shape[1], "window" if video.ndim == 4 else "frame"
    rows = min(SHOWN, len(video))
    flat = lambda x: x[:rows] if x.ndim == 2 else x[:rows, 0]
    found = []
    given = zip(flat(batch["tokens"]), flat(np.asarray(answers)), flat(batch["loss_mask"]), strict=True)
    for record, (right, told, mask) in zip(batch["record_id"][:rows], given, strict=True):
        first = int(mask.argmax())
        texts = [_until_end(readers, tokens[first:].tolist()) for tokens in (right, told)]
        found.append(Example(readers.describe[number](int(record)), *texts, parts, places))
    return found


def _until_end(readers: Readers, tokens: list[int]) -> str:
    """The text of an answer; one that does not end is told as it is."""
    end = tokens.index(readers.end) if readers.end in tokens else len(tokens)
    return readers.text(tokens[:end]).strip().replace(" .", ".")  # a tokenizer of words puts a space before it


def as_table(examples: Sequence[Example]) -> str:
    """A Markdown table."""
    cell = lambda text: text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    rows = [f"| {cell(one.about)} | {cell(one.target)} | {cell(one.answer)} |" for one in examples]
    return "\n".join(["| row | right answer | the model's |", "|---|---|---|", *rows])


def as_picture(examples: Sequence[Example]) -> np.ndarray:
    """Timelines `[H, W, 3]` uint8: the right answer above the model's, a pair for each example."""
    return bars_of_answers([one.bars for one in examples])
