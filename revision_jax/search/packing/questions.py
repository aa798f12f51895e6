"""Sentences as tokenised questions of either level."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from revision_jax.prompts import PromptEncoder, group_answers, video_answers
from revision_jax.quoting import quoted
from revision_jax.search.packing.inputs import Questions
from revision_jax.search.packing.padding import common_start, pack_questions

_PROBES = ("a dog runs", "the zebra", "7 people")  # questions about them share only what all questions share
# What upper levels may ask: a kind of question -> the answers about a group of n.
UPPER_ANSWERS = {"group": group_answers, "retrieval": video_answers}


@dataclasses.dataclass(frozen=True)
class QuestionEncoder:
    """Writes questions about sentences.

    Attributes:
      prompts: tokenizer and template.
      upper_question: what upper levels ask, a key of `UPPER_ANSWERS`.
      answer_tokens: tokens of the longest answer of any level.
      length: T, tokens that questions are padded to behind their common head; 0 takes the longest of a call.
    """

    prompts: PromptEncoder
    upper_question: str
    answer_tokens: int
    length: int = 0

    def encode(self, sentence: str, level: str = "dense") -> np.ndarray:
        """Tokens `[n]` int32 of a level's question about a sentence; `level` is `dense` or `upper_question`.

        Raises:
          ValueError: the sentence is empty, or with its answer longer than anything the model was trained on.
        """
        tokens = self.prompts.encode_question(sentence, level)
        length, limit = len(tokens) + self.answer_tokens, self.prompts.max_text_tokens
        if length > limit:
            raise ValueError(
                f"the query {quoted(sentence)} needs {length} tokens with its answer; the model reads at most {limit} "
                f"(prompt.max_text_tokens). Shorten it."
            )
        return tokens

    def pack(self, sentences: Sequence[str], level: str, batch: int = 1) -> Questions:
        """The questions of a level in fixed shapes; Q is a multiple of `batch`.

        Raises:
          ValueError: a sentence that cannot be asked, see `encode`, or a question longer than `length`.
        """
        sentences = [self.encode(sentence, level) for sentence in sentences]
        return pack_questions(sentences, self.head(level), self.length, batch)

    def head(self, level: str) -> np.ndarray:
        """Tokens `[h]` int32 that all questions of a level begin with."""
        return common_start([self.prompts.encode_question(probe, level) for probe in _PROBES])

    def fitted_to(self, sentences: Sequence[str]) -> "QuestionEncoder":
        """With the length that all these sentences need, so that they meet one program; a length that is set stays."""
        if self.length:
            return self
        lengths = [self.pack(sentences, level).tokens.shape[1] for level in ("dense", self.upper_question)]
        return dataclasses.replace(self, length=max(lengths))
