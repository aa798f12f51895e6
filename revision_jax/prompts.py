"""The language of questions and answers: one grammar that writes targets, constrains decoding and reads results.

The sequence the LLM sees is `[prefix | video | question and answer]`, each text piece tokenised apart, BOS (if the
tokenizer has one) only at the front (REFERENCE section 2: Vicuna's prompt, features in place of `<video>`). The prefix
never changes and the video stands before the question, so that key/value caches of (prefix, video) serve every query.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from revision_jax.quoting import quoted

NOT_PRESENT = "Not Present"
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
QUESTIONS = {
    "dense": "During which frames can we see {event}?",
    "group": "During which frames can we see {event}?",  # over windows; the paper asks it in the same words
    "sparse": "Does {event} happen in the video? Answer yes or no.",
    "retrieval": "In which video can we see {event}?",
    "caption": "Describe this frame.",
}
YES, NO = "Yes.", "No."
CHUNK = 4096  # texts tokenized in one call
KEPT_TEXTS = 1 << 16  # texts whose tokens stay in memory, about 300 bytes each
# Text that would be read as structure: special tokens, the place of the video, the turn of the assistant.
_STRUCTURE = re.compile(r"<[^<>\s]{1,40}>|\b(?:USER|ASSISTANT)\s*:", re.IGNORECASE)


def normalize_event(sentence: str) -> str:
    """A sentence as it goes into a question: stripped, lower-cased, its final full stop removed.

    Markers such as `<video>`, `</s>` or `ASSISTANT:` are removed, so that a query cannot change the prompt.

    Raises:
      ValueError: the sentence is empty.
    """
    text = sentence
    while (cleaned := _STRUCTURE.sub(" ", text)) != text:  # what is left around a removed marker may form another one
        text = cleaned
    event = " ".join(text.split()).lower().removesuffix(".").strip()
    if not event:
        raise ValueError(f"the query {quoted(sentence)} is empty; expected a sentence that describes an event.")
    return event


def clip_query(sentence: str) -> str:
    """A sentence as CLIP's text encoder gets it: `.`, then spaces, then `?` stripped, then `.` appended."""
    return sentence.strip(".").strip(" ").strip("?") + "."


def question(sentence: str, level: str = "dense") -> str:
    """The question a level asks about an event; see `QUESTIONS`."""
    return QUESTIONS[level].format(event=normalize_event(sentence))


def span_answer(s: int, e: int) -> str:
    """`From 07 to 13.` for frames `s..e` of a window; numbers have at least two digits."""
    return f"From {s:02d} to {e:02d}."


def group_answer(a: int, b: int) -> str:
    """`From 3 to 5.` for windows `a..b - 1` of a group: `b` is exclusive and may be the number of windows."""
    return f"From {a} to {b}."


def presence_answer(present: bool) -> str:
    """`Yes.` or `No.`"""
    return YES if present else NO


def video_answer(v: int) -> str:
    """`In video 4.`"""
    return f"In video {v}."


def dense_answers(num_frames: int) -> dict[str, tuple[int, int]]:
    """All answers about a window: text -> frames `(s, e)`, `0 <= s <= e < num_frames`; (-1, -1) for `Not Present`."""
    spans = {span_answer(s, e): (s, e) for s in range(num_frames) for e in range(s, num_frames)}
    return {NOT_PRESENT: (-1, -1)} | spans


def group_answers(num_windows: int) -> dict[str, tuple[int, int]]:
    """All answers about a group: text -> windows `(a, b)`, `0 <= a < b <= num_windows`. Something is always there."""
    return {group_answer(a, b): (a, b) for a in range(num_windows) for b in range(a + 1, num_windows + 1)}


def video_answers(num_videos: int) -> dict[str, tuple[int, int]]:
    """All answers of a retrieval: text -> `(v, v + 1)`, an interval of one video."""
    return {video_answer(v): (v, v + 1) for v in range(num_videos)}


def presence_answers() -> dict[str, tuple[int, int]]:
    """`Yes.` -> (0, 1), the one window asked about; `No.` -> (-1, -1)."""
    return {YES: (0, 1), NO: (-1, -1)}


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """What stands around video, question and answer. `system` may be empty (small models)."""

    system: str = VICUNA_SYSTEM

    @property
    def before_video(self) -> str:
        return f"{self.system} USER: " if self.system else "USER: "

    @staticmethod
    def after_video(question_text: str) -> str:
        return f"\n{question_text} ASSISTANT:"


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer; its import is slow."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, token_ids: Sequence[int]) -> str: ...


class PromptEncoder:
    """Turns prompts into token ids of one tokenizer.

    Args:
      tokenizer: a transformers tokenizer with `eos_token_id`; one without BOS (Qwen's) begins with the text.
      template: what stands around video and question.
      max_text_tokens: `T`, the fixed length of question and answer together.

    Attributes:
      prefix: `[P]` int32, BOS (if there is one) and the text before the video.
      pad_id: fills the text on the right; it carries no loss and no valid token sees it.
    """

    def __init__(self, tokenizer: Tokenizer, template: PromptTemplate, max_text_tokens: int):
        if tokenizer.eos_token_id is None:
            raise ValueError(
                "the tokenizer has no EOS token, which closes every answer; name one in tokenizer_config.json."
            )
        self.tokenizer = tokenizer
        self.template = template
        self.max_text_tokens = max_text_tokens
        self.bos_id = tokenizer.bos_token_id
        self.eos_id = tokenizer.eos_token_id
        self.pad_id = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._encoded: dict[str, np.ndarray] = {}  # a small data set asks for the same texts every epoch
        bos = [] if self.bos_id is None else [self.bos_id]
        self.prefix = np.append(np.array(bos, np.int32), self.encode_text(template.before_video))

    def encode_text(self, text: str) -> np.ndarray:
        """Tokens `[n]` int32 of a piece of text, without special tokens."""
        tokens = self._encoded.get(text)
        if tokens is None:
            tokens = np.array(self.tokenizer.encode(text, add_special_tokens=False), np.int32)
            tokens.flags.writeable = False  # shared by all who ask
            if len(self._encoded) >= KEPT_TEXTS:  # a large one is not kept whole
                self._encoded = {}
            self._encoded[text] = tokens
        return tokens

    def encode_question(self, sentence: str, level: str = "dense") -> np.ndarray:
        """Tokens `[n]` int32 of the question up to `ASSISTANT:`, where the answer begins."""
        return self.encode_text(self.template.after_video(question(sentence, level)))

    def encode_answer(self, answer: str) -> np.ndarray:
        """Tokens `[n]` int32 of an answer with the closing `</s>`."""
        return np.append(self.encode_text(answer), np.int32(self.eos_id))

    def unsure(self, sentences: Iterable[str], answer: str, level: str = "dense") -> list[int]:
        """Places of the sentences that `encode_example` may refuse; tokenized many at a time, and none is kept."""
        room = self.max_text_tokens - len(self.encode_answer(answer))
        many = getattr(self.tokenizer, "backend_tokenizer", None)  # what is written in Rust has one
        found: list[int] = []
        numbered = enumerate(sentences)
        while chunk := list(itertools.islice(numbered, CHUNK)):
            texts: dict[int, str] = {}
            for number, sentence in chunk:
                try:
                    texts[number] = self.template.after_video(question(sentence, level))
                except ValueError:  # empty
                    found.append(number)
            if many is None:
                found += texts
                continue
            rows = many.encode_batch_fast(list(texts.values()), add_special_tokens=False)
            found += [number for number, row in zip(texts, rows) if len(row) > room]
        return sorted(found)

    def encode_example(self, sentence: str, answer: str, level: str = "dense") -> dict[str, np.ndarray]:
        """A training example: `tokens [T]` int32, right-padded, and `loss_mask [T]` bool, True on answer tokens.

        Raises:
          ValueError: question and answer are longer than `max_text_tokens`.
        """
        asked, answered = self.encode_question(sentence, level), self.encode_answer(answer)
        length = len(asked) + len(answered)
        if length > self.max_text_tokens:
            raise ValueError(
                f"the query {quoted(sentence)} needs {length} tokens with its answer; prompt.max_text_tokens is "
                f"{self.max_text_tokens}. Raise it or shorten the query."
            )
        tokens = np.full(self.max_text_tokens, self.pad_id, np.int32)
        tokens[:length] = np.concatenate([asked, answered])
        position = np.arange(self.max_text_tokens)
        return {"tokens": tokens, "loss_mask": (position >= len(asked)) & (position < length)}


@dataclasses.dataclass(frozen=True)
class AnswerGrammar:
    """All answers of a level as a trie over tokens, compiled from the tokenizer: nothing about it is assumed.

    Decoding walks it: in state `i` only `tokens[i]` are allowed, and taking `tokens[i, c]` leads to `next[i, c]`.
    State 0 is the root. A final state (after `</s>`) allows only the pad token and stays where it is.

    Attributes:
      tokens: `[S, C]` int32, allowed tokens, padded with -1.
      next: `[S, C]` int32, the state after each.
      answer: `[S, 2]` int32, at a final state the answer's value, as `dense_answers` and the other mappings give it;
        (-1, -1) is "not present"; (-2, -2) elsewhere.
      max_length: tokens of the longest answer, `</s>` included.
    """

    tokens: np.ndarray
    next: np.ndarray
    answer: np.ndarray
    max_length: int

    @property
    def final(self) -> np.ndarray:
        """`[S]` bool: True where an answer is complete."""
        return self.answer[:, 0] > -2

    @classmethod
    def compile(cls, encoder: PromptEncoder, answers: Mapping[str, tuple[int, int]]) -> "AnswerGrammar":
        """The trie of `answers`, text -> what it stands for: `dense_answers(F)`, `group_answers(n)`, ...

        Raises:
          ValueError: the tokenizer writes two of them alike.
        """
        children: list[dict[int, int]] = [{}]
        results = [(-2, -2)]
        max_length = 0
        for text, result in answers.items():
            state = 0
            ids = encoder.encode_answer(text).tolist()
            max_length = max(max_length, len(ids))
            for token in ids:
                if token not in children[state]:
                    children[state][token] = len(children)
                    children.append({})
                    results.append((-2, -2))
                state = children[state][token]
            if results[state] != (-2, -2) or children[state]:
                raise ValueError(
                    f"two answers share the tokens {ids} ({text!r}); this tokenizer cannot tell them apart."
                )
            results[state] = result
        width = max(map(len, children))
        tokens = np.full((len(children), width), -1, np.int32)
        following = np.zeros((len(children), width), np.int32)
        for state, edges in enumerate(children):
            edges = edges or {encoder.pad_id: state}
            tokens[state, : len(edges)] = list(edges)
            following[state, : len(edges)] = list(edges.values())
        return cls(tokens, following, np.array(results, np.int32), max_length)
