"""Batches of symbolic videos and questions in a tokenizer's tokens, for the tiny LLM's pretraining.

Letters: B videos, F frames, A words of `attributes.WORDS`, T text tokens.
"""

from collections.abc import Mapping

import numpy as np
from transformers import PreTrainedTokenizerBase

from revision_jax import prompts
from revision_jax.data.builders.shapes_events import COLORS, SHAPES, TEMPLATES
from revision_jax.pretrain import attributes
from revision_jax.pretrain.lookup_questions import KINDS, Question, Video, make_video
from revision_jax.pretrain.lookup_world import CHANGES

PRESENCE_WEIGHT = 4.0  # of `Yes` and `No` in the loss: one token tells all, where a span's answer has six
FILLERS = 7  # at most so many words without meaning stand between the keywords of a lookup
LOOKUP_TOKENS = 18 + FILLERS  # "Find: red triangle hits blue square and bounces back ASSISTANT:", fillers, the answer
LOOKING = (-1, 0, 2)  # where these tokens stand, from the answer's first on: "ASSISTANT:", "From", "to"
NOISE = 0.1  # standard deviation of the noise on a frame's word weights: features will not be exact either
PLAIN = np.array([word in (*COLORS, *SHAPES, attributes.NOTHING) for word in attributes.WORDS], np.float32)


def make_encoder(tokenizer: PreTrainedTokenizerBase) -> prompts.PromptEncoder:
    """The prompt of the pretraining: no system text."""
    return prompts.PromptEncoder(tokenizer, prompts.PromptTemplate(system=""), max_text_tokens=32)


def number_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, int]:
    """Token -> number, of the two-digit numbers, which are one token each."""
    return {tokenizer.convert_tokens_to_ids(f"{n:02d}"): n for n in range(100)}


def _fillers(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Tokens that mean nothing here: no special token, number, kind or keyword, and no word for an action."""
    meant = " ".join([*KINDS, *attributes.WORDS, *CHANGES, *(form for forms in TEMPLATES.values() for form in forms)])
    meant = {*tokenizer.encode(meant), *tokenizer.all_special_ids, *number_tokens(tokenizer)}
    meant |= {*tokenizer.encode(prompts.span_answer(0, 0)), *tokenizer.encode("ASSISTANT: " + prompts.NOT_PRESENT)}
    return np.array([token for token in range(len(tokenizer)) if token not in meant])


def _encode_question(
    encoder: prompts.PromptEncoder, question: Question, fillers: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Tokens of `Find: red triangle eastward ASSISTANT:`; three of four have fillers at random places.

    Later sentences have words that the LLM has never seen: it must find the keywords by what they are, not by where
    they stand.
    """
    if question.kind == "Describe":
        return encoder.encode_question(question.keywords, "caption")
    plain = rng.random() < 0.25
    text = f"{question.kind}: {question.keywords}" if question.kind else question.keywords
    if question.kind == "Does" and rng.random() < 0.4:  # any LLM answers this
        plain, text = True, prompts.QUESTIONS["sparse"].format(event=question.keywords)
    asked = encoder.encode_text(text)
    if question.kind != "Say" and not plain:
        count = int(rng.integers(FILLERS + 1))
        asked = np.insert(asked, rng.integers(len(asked) + 1, size=count), rng.choice(fillers, count))
    return np.append(asked, encoder.encode_text(encoder.template.after_video("")))


def make_batch(
    encoder: prompts.PromptEncoder, frames: int, kind: str, size: int, rng: np.random.Generator, hints: float = 0.0
) -> dict[str, np.ndarray]:
    """A batch of B = `size` videos and all their questions, `n` a video: LOOKUPS, one caption if "described".

    Videos that are "seen" have no questions, and their batch only its first three arrays.

    Args:
      encoder: turns questions and answers into tokens.
      frames: F; kind: as `lookup_questions.make_video` takes them.
      hints: share of the videos whose frames also say in a word what changes.

    Returns:
      `weights` [B, F, A] float32; `changes` [B, F] int32; `said` [B, F] int32, the token of the word that a frame also
      says, -1 for none; `tokens` [B * n, T] int32; `loss_weights` [B * n, T] float32; `span` [B * n, 2], frames of a
      `Find` question's answer, -1 for other questions; `looking` [B * n, 3] int32, tokens that must know which frames
      show what is asked for: the question's last, and those before a span's two numbers; `shown` [B * n, 3, F] int32,
      whether frames show it: 1 or 0, -1 where that cannot be seen and for tokens that a question has not.
    """
    keys = ("weights", "changes", "said", "tokens", "loss_weights", "span", "looking", "shown")
    batch = {key: [] for key in keys}
    fillers = _fillers(encoder.tokenizer)
    for _ in range(size):
        video = make_video(frames, kind, rng)
        batch["changes"].append(video.changes)
        batch["said"].append(_said(encoder.tokenizer, video, kind, hints, rng))
        weights = video.weights * PLAIN if kind in ("plain", "named") else video.weights
        batch["weights"].append(weights + NOISE * rng.standard_normal(weights.shape, np.float32))
        for question in video.questions:
            for key, value in _encode_lookup(encoder, question, fillers, rng).items():
                batch[key].append(value)
            batch["shown"].append(_shown(question, frames))
    return {key: np.stack(values) for key, values in batch.items() if values}


def _said(
    tokenizer: PreTrainedTokenizerBase, video: Video, kind: str, hints: float, rng: np.random.Generator
) -> np.ndarray:
    """`[F]` int32, the token of the word that a frame says besides what it shows; -1 for none."""
    token = lambda words: np.array(tokenizer.convert_tokens_to_ids(list(words)))
    if video.yes is not None:
        return token(("No", "Yes"))[video.yes.astype(int)].astype(np.int32)
    if kind == "described":
        return np.full(len(video.changes), -1, np.int32)
    hinted = (video.changes >= 0) & (rng.random() < (1 if kind == "named" else hints))
    return np.where(hinted, token(CHANGES)[video.changes], -1).astype(np.int32)


def _encode_lookup(
    encoder: prompts.PromptEncoder, question: Question, fillers: np.ndarray, rng: np.random.Generator
) -> Mapping[str, np.ndarray | tuple[int, int]]:
    """`tokens`, `loss_weights`, `span` and `looking` of a question with its answer, as `make_batch` returns them."""
    asked = _encode_question(encoder, question, fillers, rng)
    answer = encoder.encode_answer(question.answer)
    tokens, index = np.full(LOOKUP_TOKENS, encoder.pad_id, np.int32), np.arange(LOOKUP_TOKENS)
    tokens[: len(asked) + len(answer)] = np.concatenate([asked, answer])
    weights = np.float32((index >= len(asked)) & (index < len(asked) + len(answer)))
    weights[len(asked)] = PRESENCE_WEIGHT if question.kind == "Does" else 1.0
    span = question.span if question.kind == "Find" else (-1, -1)
    looking = len(asked) + np.array(LOOKING, np.int32)
    return {"tokens": tokens, "loss_weights": weights, "span": span, "looking": looking}


def _shown(question: Question, frames: int) -> np.ndarray:
    """`[3, F]` int32, as `make_batch` returns it."""
    shown = np.full((len(LOOKING), frames), -1, np.int32)
    if question.shown is not None:
        shown[: len(LOOKING) if question.kind == "Find" else 1] = question.shown
    return shown
