"""A grounder's logits on a fixed input, from files: what is compared before and after an export.

Letters: B questions, n video tokens, F frames a window, D visual width, T text tokens, H LLM width, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from revision_jax.interop.lora import LoRA
from revision_jax.interop.streaming import embed, stream_logits
from revision_jax.models.adapter import DenseAdapter, SparseAdapter
from revision_jax.models.llama import LlamaConfig
from revision_jax.prompts import PromptEncoder, group_answer, presence_answer, span_answer

_EVENTS = ("a man opens a door", "the car stops")
_TOKENS, _FRAMES, _QUERY, _FEATURE_SIZE = 6, 8, 5, 0.4  # the size of CLIP's features


class Parts(NamedTuple):
    """A grounder's parts, from files: a Llama's state dict, a LoRA that is not merged into it, one adapter."""

    tensors: Mapping[str, Any]
    lora: LoRA | None
    adapter: DenseAdapter | SparseAdapter


class FixedInput(NamedTuple):
    """Two questions with their answers about fixed random features.

    Attributes:
      prefix: [P] int32; tokens: [B, T] int32; answers: [B, T] bool, true at the tokens of the answers.
    """

    prefix: np.ndarray
    tokens: np.ndarray
    answers: np.ndarray


def fixed_input(prompts: PromptEncoder, adapter: DenseAdapter | SparseAdapter) -> FixedInput:
    """Questions as the adapter's level asks them; padding is cut off."""
    if isinstance(adapter, DenseAdapter):
        level, answers = "dense", (span_answer(1, 4), "Not Present")
    else:
        level, answers = "group", (group_answer(1, 3), presence_answer(True))
    examples = [prompts.encode_example(event, text, level) for event, text in zip(_EVENTS, answers)]
    tokens, masks = (np.stack([example[key] for example in examples]) for key in ("tokens", "loss_mask"))
    length = int(np.nonzero(masks.any(0))[0].max()) + 1
    return FixedInput(prompts.prefix, tokens[:, :length], masks[:, :length])


def grounder_logits(parts: Parts, config: LlamaConfig, given: FixedInput) -> np.ndarray:
    """[B, T, V] float32: row i predicts token i."""
    video = video_tokens(parts.adapter, len(given.tokens))
    head = np.broadcast_to(embed(parts.tensors, given.prefix), (len(video), len(given.prefix), video.shape[-1]))
    text = embed(parts.tensors, given.tokens[:, :-1])
    embeddings = np.concatenate([head, video, text], axis=1)
    start = len(given.prefix) + video.shape[1] - 1
    return stream_logits(config, parts.tensors, embeddings, parts.lora)[:, start:]


def video_tokens(adapter: DenseAdapter | SparseAdapter, count: int) -> np.ndarray:
    """[count, n, H] float32, the adapter's tokens of fixed random features."""
    rng = np.random.default_rng(0)
    kernel = adapter.kernel if isinstance(adapter, DenseAdapter) else adapter.mm_projector.kernel
    features = lambda *shape: _FEATURE_SIZE * rng.standard_normal((*shape, kernel.shape[0])).astype(np.float32)
    if isinstance(adapter, DenseAdapter):
        return np.asarray(adapter(features(count, _TOKENS)))
    windows, query = features(count * _TOKENS, _FRAMES), features(count * _TOKENS, _QUERY)
    tokens = adapter(windows, query, np.ones(query.shape[:2], bool))
    return np.asarray(tokens).reshape(count, _TOKENS, -1)
