"""A grounder's logits on a fixed input, from files: what is compared before and after an export.

Letters: B questions, n video tokens, F frames a window, D visual width, T text tokens, H LLM width, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from revision_jax.interop.lora import LoRA
from revision_jax.interop.streaming import embed, stream_logits
from revision_jax.models.llama import LlamaConfig
from revision_jax.models.visual import Visual
from revision_jax.prompts import PromptEncoder, group_answer, presence_answer, span_answer

_EVENTS = ("a man opens a door", "the car stops")
_TOKENS, _FRAMES, _QUERY, _FEATURE_SIZE = 6, 8, 5, 0.4  # the size of CLIP's features


class Parts(NamedTuple):
    """A grounder's parts, from files: a Llama's state dict, a LoRA that is not merged into it, the adapters."""

    tensors: Mapping[str, Any]
    lora: LoRA | None
    visual: Visual


class FixedInput(NamedTuple):
    """Two questions with their answers about fixed random features.

    Attributes:
      level: "dense" or "sparse", the adapter whose tokens are asked about.
      prefix: [P] int32; tokens: [B, T] int32; answers: [B, T] bool, true at the tokens of the answers.
    """

    level: str

    prefix: np.ndarray
    tokens: np.ndarray
    answers: np.ndarray


def fixed_input(prompts: PromptEncoder, level: str) -> FixedInput:
    """Questions as a level asks them; padding is cut off."""
    if level == "dense":
        question, answers = "dense", (span_answer(1, 4), "Not Present")
    else:
        question, answers = "group", (group_answer(1, 3), presence_answer(True))
    examples = [prompts.encode_example(event, text, question) for event, text in zip(_EVENTS, answers)]
    tokens, masks = (np.stack([example[key] for example in examples]) for key in ("tokens", "loss_mask"))
    length = int(np.nonzero(masks.any(0))[0].max()) + 1
    return FixedInput(level, prompts.prefix, tokens[:, :length], masks[:, :length])


def grounder_logits(parts: Parts, config: LlamaConfig, given: FixedInput) -> np.ndarray:
    """[B, T, V] float32: row i predicts token i."""
    video = video_tokens(parts.visual, given.level, len(given.tokens))
    head = np.broadcast_to(embed(parts.tensors, given.prefix), (len(video), len(given.prefix), video.shape[-1]))
    text = embed(parts.tensors, given.tokens[:, :-1])
    embeddings = np.concatenate([head, video, text], axis=1)
    start = len(given.prefix) + video.shape[1] - 1
    return stream_logits(config, parts.tensors, embeddings, parts.lora)[:, start:]


def video_tokens(visual: Visual, level: str, count: int) -> np.ndarray:
    """[count, n, H] float32, the tokens of fixed random features at a level."""
    rng = np.random.default_rng(0)
    features = lambda *shape: _FEATURE_SIZE * rng.standard_normal((*shape, visual.width)).astype(np.float32)
    if level == "dense":
        video, seen = features(count, _TOKENS), ()
        if visual.frames_see_query:
            seen = features(count, _QUERY), np.ones((count, _QUERY), bool)
        return np.asarray(visual.frame_tokens(video, *seen))
    windows, query = features(count * _TOKENS, _FRAMES), features(count * _TOKENS, _QUERY)
    tokens = visual.window_tokens(windows, query, np.ones(query.shape[:2], bool))
    return np.asarray(tokens).reshape(count, _TOKENS, -1)
