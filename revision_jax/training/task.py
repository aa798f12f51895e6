"""What a stage trains: a model, its data and the files it stands on. The loop knows nothing else of it."""

from __future__ import annotations  # so that no annotation imports grain

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from flax import nnx

from revision_jax import lazy
from revision_jax.training.examples import Readers

grain = lazy.module("grain")  # for annotations alone


@dataclasses.dataclass(frozen=True)
class Task:
    """A stage, ready to be trained by `loop.run`.

    Attributes:
      model: `model.hidden(prefix [P], video [B, F, D], tokens [B, (G,) T], dropout_key=key) -> [B, (G,) T, H]`, and
        `model.logits([..., H]) -> [..., V]`.
      prefix: `[P]` int32, tokens before the video.
      batches: endless data set of dicts: `video`, `tokens`, `loss_mask [B, (G,) T]` and `record_id [B]`.
      epoch_batches: batches in one pass over the data.
      describe_record: record id -> what it is (query, video, seconds), for errors.
      base: role ("llm") -> {"path", "sha256"} of each file the training stands on, for checkpoints.
      validation: data sets of held-out batches of the same form, one for each kind; none where nothing is validated.
      readers: how rows of `validation` are shown; None = they are not.
    """

    model: nnx.Module
    prefix: np.ndarray
    batches: grain.IterDataset
    epoch_batches: int
    describe_record: Callable[[int], str]
    base: Mapping[str, Mapping[str, str]]
    validation: Sequence[grain.MapDataset] = ()
    readers: Readers | None = None
