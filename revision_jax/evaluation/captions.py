"""Held-out captions of frames, for the stage that trains the dense adapter: how many of their tokens are right?

Letters: B batch, T text tokens, N captions.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from revision_jax.data.batches.captions import LoadCaption
from revision_jax.evaluation.evaluator import Evaluation, Scored
from revision_jax.evaluation.questions import HONOURS, Question, ask_all, batches_of, some_of
from revision_jax.fingerprints import fingerprint
from revision_jax.models.grounder import Grounder
from revision_jax.parallel.programs import Program
from revision_jax.runs.run import Run
from revision_jax.runs.splits import open_captions
from revision_jax.training.state import Arrays, Module, take_apart

CAPTIONS = 512  # the most captions that are asked for, whatever `eval.max_rows`: they are alike


class Captions:
    """The evaluator `captions`: each token of a caption, given those before it."""

    honours, chooses_on_val = HONOURS - {"data"}, False

    def __call__(self, evaluation: Evaluation) -> Scored:
        run, directory = evaluation.run, evaluation.directories[evaluation.split]
        width = run.grounder("trained").visual_width
        captions = open_captions(run.config, directory, evaluation.split, width)
        load = LoadCaption(captions, run.prompts)
        numbers = some_of(len(captions.texts), min(CAPTIONS, run.config.eval.max_rows), run.config.seed)
        question = Question("captions", numbers, _Predicting(run, load), caption_scores)
        return ask_all(evaluation, [question], "".join(fingerprint(path) for path in captions.files))


class _Predicting:
    """(grounder, numbers of captions) -> `[N, 3]`: loss (nats), right tokens and tokens of each caption."""

    def __init__(self, run: Run, load: LoadCaption):
        self._run, self._load = run, load

    def __call__(self, grounder: Grounder, numbers: Sequence[int]) -> np.ndarray:
        module, arrays = take_apart(grounder)
        counts = Program(caption_counts, module)
        rows = [self._load((0, number)) for number in numbers]
        found = [
            np.asarray(counts(self._run.prompts.prefix, arrays, batch))[:count]
            for batch, count in batches_of(rows, self._run.config.train.batch_size, self._run.mesh)
        ]
        return np.concatenate(found)


def caption_counts(
    module: Module, prefix: jax.Array, arrays: Arrays, batch: Mapping[str, jax.Array]
) -> jax.Array:  # fmt: skip
    """`[B, 3]` float32: summed loss (nats), right tokens and tokens of each caption.

    Args:
      prefix: `[P]` int32, tokens before the frame.
      batch: `video [B, 1, D]`, `tokens [B, T]`, `loss_mask [B, T]`.
    """
    logits, mask = module.merge(arrays)(prefix, batch["video"], batch["tokens"]), batch["loss_mask"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["tokens"])
    right = (logits.argmax(-1) == batch["tokens"]) & mask
    return jnp.stack([jnp.where(mask, losses, 0.0).sum(-1), right.sum(-1), mask.sum(-1)], axis=-1)


def caption_scores(counts: np.ndarray) -> dict[str, float]:
    """Percent of the tokens that are right, and nats a token; `counts [N, 3]` of `caption_counts`."""
    loss, right, tokens = counts.sum(axis=0)
    return {"token_accuracy": 100.0 * right / tokens, "loss": loss / tokens, "captions": len(counts)}
