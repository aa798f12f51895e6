"""The released program's search as a plain program, to measure its cost: it computes the published procedure, no more.

For each query: every dense window is prefilled and answered anew; at each upper level the sparse adapter runs on every
upper window for zooms 4, 2 and 1, its features repeated as often, and each group is answered at batch 1. Nothing is
shared between queries, levels or zooms. Written for this project on the project's own model, jitted, with a key/value
cache within an answer; the time of compiling is not counted.

Letters: B rows, S tokens of a prompt, F frames a window, W windows, n windows of a group, z zoom.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from revision_jax.models.grounder import Grounder
from revision_jax.models.llama import KVCache, Llama

ZOOMS = (4, 2, 1)
LEVELS = (33, 100)
ANSWER_TOKENS = 12


class Asked(NamedTuple):
    """One question to the upper levels: its tokens `[T]`, CLIP's token features `[Q, D]` and their mask `[Q]`."""

    question: jax.Array
    query: jax.Array
    mask: jax.Array


class Frames(NamedTuple):
    """Stored frames of a video's windows: `dense` `[W, F]` and `upper` `[U, F]` int."""

    dense: np.ndarray
    upper: np.ndarray


def generate(llm: Llama, embeddings: jax.Array, steps: int) -> jax.Array:
    """Greedy answers without a grammar: prompts `[B, S, H]` -> tokens `[B, steps]`."""
    hidden, cache = llm.prefill(embeddings)
    batch, length = embeddings.shape[:2]
    own = KVCache.zeros(llm.config, batch, steps, cache.k.dtype)
    pick = lambda hidden: jnp.argmax(llm.logits(hidden), axis=-1)

    def step(carry: tuple[jax.Array, KVCache], k: jax.Array) -> tuple[tuple[jax.Array, KVCache], jax.Array]:
        token, own = carry
        seen = jnp.broadcast_to(jnp.arange(steps) <= k, (batch, 1, steps))
        position = jnp.full((batch, 1), length + k)
        hidden, own = llm.extend(llm.embed(token[:, None]), position, cache, own, k, seen)
        return (pick(hidden[:, 0]), own), token

    return jax.lax.scan(step, (pick(hidden[:, -1]), own), jnp.arange(steps))[1].T


def dense_answers(
    grounder: Grounder, prefix: jax.Array, question: jax.Array, video: jax.Array, steps: int
) -> jax.Array:
    """Windows `[B, F, D]` asked one question `[T]`: tokens `[B, steps]`."""
    return generate(grounder.llm, _behind(grounder.llm, grounder.embed_windows(prefix, video), question), steps)


def group_answer(upper: Grounder, prefix: jax.Array, asked: Asked, video: jax.Array, steps: int) -> jax.Array:
    """A group `[n, F, D]` of windows, some of them repeated, asked one question: tokens `[1, steps]`."""
    each = lambda x: jnp.broadcast_to(x[None], (len(video), *x.shape))
    tokens = upper.sparse_tokens(video, each(asked.query), each(asked.mask))
    return generate(upper.llm, _behind(upper.llm, upper.embed_group(prefix, tokens[None]), asked.question), steps)


def _behind(llm: Llama, context: jax.Array, question: jax.Array) -> jax.Array:
    said = llm.embed(question[None])
    return jnp.concatenate([context, jnp.broadcast_to(said, (len(context), *said.shape[1:]))], axis=1)


@dataclasses.dataclass
class Counted:
    """What was done: seconds of the dense windows and of the upper levels, and how much went through the models."""

    dense_s: float = 0.0
    upper_s: float = 0.0
    calls: int = 0
    sparse_vectors: int = 0
    tokens: int = 0


def search_query(
    ask_dense: Callable[[jax.Array], Any],
    ask_group: Callable[[jax.Array], Any],
    features: jax.Array,
    frames: Frames,
    *,
    dense_batch: int,
    text_tokens: int,
) -> Counted:
    """Everything that one query costs.

    Args:
      ask_dense, ask_group: video -> answers, compiled.
      features: `[N, D]` on the device; `frames` are rows of it.
      dense_batch: dense windows answered together.
      text_tokens: prefix, question and answer.
    """
    rng, counted = np.random.default_rng(0), Counted()
    started = time.perf_counter()
    for rows in _groups(np.arange(len(frames.dense)), dense_batch):
        jax.block_until_ready(ask_dense(features[frames.dense[rows]]))
        counted.tokens += len(rows) * (frames.dense.shape[1] + text_tokens)
    counted.dense_s = time.perf_counter() - started
    started = time.perf_counter()
    for rows in upper_groups(len(frames.upper), rng):
        jax.block_until_ready(ask_group(features[frames.upper[rows]]))
        counted.calls += 1
        counted.sparse_vectors += len(rows)
        counted.tokens += len(rows) + text_tokens
    counted.upper_s = time.perf_counter() - started
    return counted


def upper_groups(windows: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The windows of every call, each repeated, in random order: levels 33 and 100, `size // z` windows a call."""
    calls = []
    for size in LEVELS:
        for zoom in ZOOMS:
            for rows in _groups(rng.permutation(windows), size // zoom):
                calls.append(np.repeat(rows, zoom))
    return calls


def _groups(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]
