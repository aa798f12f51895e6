"""Sentences -> the tokens of an encoder, as transformers' tokenizer of its directory makes them; no code is run.

Letters: Q sentences, T text tokens.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from revision_jax.interop.encoder import TextRules
from revision_jax.prompts import clip_query
from revision_jax.tokenizer_files import load_tokenizer


class Tokens(NamedTuple):
    """`ids [Q, T]` int32, padded; `lengths [Q]`, with the end token and what stands in front."""

    ids: np.ndarray
    lengths: np.ndarray


class Texts:
    """The sentences of one encoder.

    Args:
      directory: Hugging Face directory with the tokenizer.
      positions: of the text tower.
    """

    def __init__(self, directory: Path, rules: TextRules, positions: int):
        self.directory, self.rules, self.positions = directory, rules, positions

    def __call__(self, sentences: Sequence[str]) -> Tokens:
        """Each sentence with its end token; a sentence that is too long is cut, with a warning.

        Raises:
          ValueError: no sentences; a tokenizer that is not an encoder's of this kind.
        """
        if isinstance(sentences, str) or not len(sentences):
            raise ValueError(f"sentences is {sentences!r}; expected a list of one or more sentences")
        tokenizer = self._tokenizer()
        texts = [clip_query(sentence) for sentence in sentences]
        if self.rules.full and tokenizer.init_kwargs.get("do_lower_case"):
            texts = [text.lower() for text in texts]  # as in training; Gemma's class does not do it
        # A full text is as long as the tokenizer pads it to.
        length = min(self.positions, tokenizer.model_max_length) if self.rules.full else self.positions
        rows, end = tokenizer(texts)["input_ids"], tokenizer.eos_token_id
        self._check(tokenizer, rows[0])
        long = [sentence for sentence, row in zip(sentences, rows, strict=True) if len(row) > length]
        if long:
            logging.warning(
                "%d sentences exceed the %d tokens of the encoder and are cut: %r, ...", len(long), length, long[0]
            )
            rows = [row if len(row) <= length else [*row[: length - 1], end] for row in rows]
        ids = np.full((len(rows), length), tokenizer.pad_token_id if self.rules.full else end, np.int32)
        for padded, row in zip(ids, rows, strict=True):
            padded[: len(row)] = row
        return Tokens(ids, np.array([len(row) for row in rows]))

    def inside(self, tokens: Tokens) -> tuple[slice, np.ndarray]:
        """Where the sentences' own tokens stand: a slice of `T`, and their mask within it."""
        starts, total = self.rules.starts, tokens.ids.shape[1]
        return slice(starts, total - 1), np.arange(total - 1 - starts) < (tokens.lengths - 1 - starts)[:, None]

    def _tokenizer(self) -> Any:
        try:
            return load_tokenizer(str(self.directory))
        except ImportError as error:
            told = f"{self.directory}: its tokenizer cannot be read: {' '.join(str(error).split())[:120]}"
            raise ValueError(f"{told}. Install what is missing: pip install sentencepiece protobuf") from error

    def _check(self, tokenizer: Any, row: Sequence[int]) -> None:
        """Raises ValueError where a tokenizer does what the model was not trained with."""
        faults, end = [], tokenizer.eos_token_id
        if row[-1] != end:
            faults.append(f"ends a text with token {row[-1]}; expected {end}")
        if self.rules.full:
            bos = tokenizer.bos_token_id
            if bos is not None and bos != end and row[0] == bos:
                faults.append(f"begins a text with {tokenizer.bos_token!r}; expected add_bos_token false")
            if tokenizer.pad_token_id is None:
                faults.append("has no padding token; expected one in tokenizer_config.json")
            if tokenizer.padding_side != "right":
                faults.append(f"has padding_side {tokenizer.padding_side!r}; expected 'right'")
            if "attention_mask" in tokenizer.model_input_names:
                faults.append(
                    f"has model_input_names {tokenizer.model_input_names}; expected ['input_ids'] in "
                    "tokenizer_config.json: the model was trained to see its padding"
                )
        if faults:
            raise ValueError("\n".join(f"{self.directory}: its tokenizer {fault}" for fault in faults))
