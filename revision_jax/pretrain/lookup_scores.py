"""How well the tiny LLM answers lookups, teacher-forced."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from transformers import PreTrainedTokenizerBase

from revision_jax.models.llama import Llama
from revision_jax.pretrain.lookup_batches import make_batch, make_encoder, number_tokens
from revision_jax.pretrain.lookup_step import ARRAYS, Fixed, loss_fn

_SEED = 10_000  # of the fresh videos; training starts from small ones


def first_token_right(predicted: np.ndarray, batch: Mapping[str, np.ndarray]) -> float:
    """Share of the questions other than `Find` whose answer's first token is right."""
    rows = np.flatnonzero(batch["span"][:, 0] < 0)
    first = batch["loss_weights"][rows].argmax(1)
    return float((predicted[rows, first] == batch["tokens"][rows, first]).mean()) if len(rows) else float("nan")


def mean_iou(predicted: np.ndarray, batch: Mapping[str, np.ndarray], numbers: Mapping[int, int]) -> float:
    """IoU of an answer's two numbers, averaged over `Find` questions; NaN without any.

    The second number is predicted behind the true first.

    Args:
      predicted: [B * n, T] tokens; batch: as `make_batch` makes it.
      numbers: token -> number, see `number_tokens`.
    """
    ious = []
    for tokens, weights, (s, e) in zip(predicted, batch["loss_weights"], batch["span"], strict=True):
        if s < 0:
            continue
        first = int(np.argmax(weights))
        a, b = (numbers.get(int(tokens[first + k]), -1) for k in (1, 3))
        inter, union = min(b, e) - max(a, s), max(b, e) - min(a, s)
        ious.append(max(inter, 0) / union if union > 0 else float((a, b) == (s, e)))
    return float(np.mean(ious)) if ious else float("nan")


def measure(
    model: Llama, tokenizer: PreTrainedTokenizerBase, *, frames: int = 64, kind: str = "mixed", videos: int = 64
) -> dict[str, float]:
    """On fresh videos of `frames` frames: mean IoU of `Find` questions, share of right answers to the others."""
    batch = make_batch(make_encoder(tokenizer), frames, kind, videos, np.random.default_rng(_SEED))
    graphdef, params = nnx.split(model)
    arrays = {key: jnp.asarray(batch[key]) for key in ARRAYS}
    _, told = loss_fn(params, graphdef, Fixed.of(tokenizer), arrays)
    predicted = np.asarray(told.predicted)
    return {
        "lookup_iou": mean_iou(predicted, batch, number_tokens(tokenizer)),
        "presence_accuracy": first_token_right(predicted, batch),
    }
