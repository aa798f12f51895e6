"""Pretrains the tiny LLM to tell time: symbolic frames in, `From 07 to 13.` out.

The counterpart of VTimeLLM's stage 2, from which the published model starts on MAD. A sample is a sequence of `F`
frames cut into segments; a segment shows one shape that stands still or changes (moves, turns, grows, fades), and
a frame's token is the mixture of the word embeddings that describe it (`attributes.weights`). These questions are
asked, hardly any in the form of the later stages:

- `Find: red triangle eastward` -> `From 07 to 13.`, `In: red triangle eastward` -> `From 7 to 13.`: the thing
  asked for is always there.
- `Does: red triangle eastward`, and as people ask, `Does red triangle eastward happen in the video? ...` -> `Yes.` or
  `No.`
- `red triangle eastward` -> `Not Present`: what is not asked in these ways gets no other answer.
- In videos that are "told", every frame only says `Yes` or `No`: whether what is asked for is there. One such token is
  all that later stages show of a whole window, and they must be able to make it say so.
- `Describe this frame.` of a single frame -> `a red triangle at the top left`, as the align stage asks.
- `Say: Not Present` -> `Not Present`, `Say: In video 7.` -> `In video 7.`: the output head must be able to write what
  later stages will ask for. A word that never occurs here is pushed so far away that LoRA does not get it back.

To see in `During which frames can we see ...` the first, to ask the second before it answers that, and to say so in the
last one's words is what stage 1 has to learn.

A tiny Llama does not learn 64-frame lookups from scratch; with a curriculum over F it does. The next level of
`curriculum.CURRICULUM` comes when the running score (mean IoU, or the accuracy of the other answers where that is
lower) passes the level's threshold.
"""

import logging
import pickle
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from transformers import PreTrainedTokenizerBase

from revision_jax.models.llama import Llama
from revision_jax.pretrain.curriculum import Place
from revision_jax.pretrain.lookup_batches import make_batch, make_encoder, number_tokens
from revision_jax.pretrain.lookup_scores import first_token_right, mean_iou
from revision_jax.pretrain.lookup_step import ARRAYS, Fixed, Told, initialise, tiny_config, train_step

log = logging.getLogger(__name__)
SAVE_EVERY = 100  # steps


def train(
    tokenizer: PreTrainedTokenizerBase, *, seed: int = 0, steps: int = 40_000, checkpoint: Path | None = None
) -> Llama:
    """Trains the tiny LLM through the curriculum.

    Args:
      tokenizer: every word of the world is one of its tokens.
      steps: the most steps; the curriculum ends by itself before, where its scores are reached.
      checkpoint: a file that is written every SAVE_EVERY steps; the training goes on from it if it is there, as if it
        had never stopped.
    """
    encoder, fixed, numbers = make_encoder(tokenizer), Fixed.of(tokenizer), number_tokens(tokenizer)
    model = Llama(tiny_config(len(tokenizer)), rngs=nnx.Rngs(seed))
    initialise(model)
    graphdef, params = nnx.split(model)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1.0, b2=0.95, weight_decay=0.01))
    state, place = (params, tx.init(params)), Place()
    if checkpoint and checkpoint.exists():
        state, place = pickle.loads(checkpoint.read_bytes())
    started = time.time()
    while place.step < steps and not place.done:
        rng = np.random.default_rng([seed, place.step])  # of this step alone, so that a stopped run goes on the same
        chosen = place.choose(rng)
        batch = make_batch(encoder, chosen.frames, chosen.kind, chosen.size, rng, chosen.hints)
        arrays = {key: batch[key] for key in ARRAYS if key in batch}
        state, told = train_step(state, arrays, fixed, jnp.float32(place.rate), graphdef=graphdef, tx=tx)
        spans, others = _scores(told, batch, numbers)
        place = place.after(min(spans, others) if chosen.scored else None)
        if place.step % 20 == 0:
            log.info(
                "step %d level %d %s F %d loss %.3f score %.3f changes %.2f others %.2f %.0f s",
                place.step, place.level, chosen.kind, chosen.frames, told.loss, place.running, told.seen,
                others, time.time() - started,
            )  # fmt: skip
        if place.step % SAVE_EVERY == 0 and checkpoint:
            checkpoint.write_bytes(pickle.dumps((jax.device_get(state), place)))
    return nnx.merge(graphdef, state[0])


def _scores(told: Told, batch: Mapping[str, np.ndarray], numbers: Mapping[int, int]) -> tuple[float, float]:
    """Mean IoU of the spans and the share of the other answers that are right; without questions, of changes seen."""
    if "tokens" not in batch:
        return float(told.seen), float(told.seen)
    predicted = np.asarray(told.predicted)
    return mean_iou(predicted, batch, numbers), first_token_right(predicted, batch)
