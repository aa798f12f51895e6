"""Trains the tiny CLIP on captioned single frames of the Shapes world.

Captions name colour, shape, size, position, orientation and brightness, each left out now and then. Beside CLIP's
contrastive loss the image embedding, and each patch, must give the soft weights of those words by one linear layer
(thrown away afterwards): without it shape was not learned.
Frames are drawn at random, never taken from a val or test video.
"""

import logging
import pickle
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from transformers import PreTrainedTokenizerBase

from revision_jax.data.builders.shapes_drawing import SIZE, backdrop, draw
from revision_jax.data.builders.shapes_events import COLORS, SHAPES
from revision_jax.models.clip import CLIP, CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from revision_jax.pretrain import attributes

log = logging.getLogger(__name__)
IMAGE_SIZE = 48
CAPTION_TOKENS = 36
MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI CLIP's normalisation, kept so that one extractor serves all
STD = (0.26862954, 0.26130258, 0.27577711)
PAIRS = len(COLORS) * len(SHAPES)
GRID = IMAGE_SIZE // 8
PATCH_CENTERS = np.stack(np.meshgrid(*[(np.arange(GRID) + 0.5) * SIZE / GRID] * 2), axis=-1).reshape(-1, 2)  # x, y
MASK = 4  # a patch's coarse mask is MASK x MASK points
SHAPE_SHARES = (0.09, 0.09, 0.15, 0.26, 0.26, 0.15)  # as SHAPES: an arrow's and a heart's orientation come last
# What an error in a word's weight costs: which way a shape faces is learned last, and is read worst.
COSTS = np.array([3.0 if word in attributes.HEADINGS else 1.0 for word in attributes.WORDS], np.float32)
CAPTIONED = 32  # pictures of a batch that meet their captions: the text tower is a third of the cost


def tiny_config(tokenizer: PreTrainedTokenizerBase) -> CLIPConfig:
    """The shipped CLIP's size: 48 px, patches of 8, width 128."""
    return CLIPConfig(
        vision=CLIPVisionConfig(
            hidden_size=128, intermediate_size=512, num_layers=4, num_heads=4, image_size=IMAGE_SIZE, patch_size=8
        ),
        text=CLIPTextConfig(
            hidden_size=128,
            intermediate_size=512,
            num_layers=2,
            num_heads=4,
            vocab_size=len(tokenizer),
            max_position_embeddings=77,
            eos_token_id=tokenizer.eos_token_id,
        ),
        projection_dim=128,
    )


def random_objects(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Colors `[n]`, shapes `[n]`, states `[n, 5]` of random shapes over all the world's ranges."""
    color, shape = rng.integers(len(COLORS), size=count), rng.choice(len(SHAPES), count, p=SHAPE_SHARES)
    states = np.stack(
        [
            rng.uniform(6, SIZE - 6, count),
            rng.uniform(6, SIZE - 6, count),
            rng.uniform(6, 18, count),
            rng.uniform(0, 2 * np.pi, count),
            np.where(rng.random(count) < 0.75, 1.0, rng.uniform(0.08, 1.0, count)),
        ],
        axis=1,
    )
    return color, shape, states


def sample_images(
    count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Pictures of no, one or two shapes.

    Returns:
      pictures `[n, SIZE, SIZE, 3]` uint8; word weights `[n, A]` float32, summed over the shapes; pairs `[n, PAIRS]`
      float32, 1 where a (color, shape) is shown; what covers each patch, as word weights and a coarse
      mask, `[n, PATCHES, A + MASK * MASK]`; and a list of `n` captions.
    """
    number = rng.choice(3, count, p=(0.04, 0.8, 0.16))
    background = np.stack([backdrop(rng) for _ in range(count)])
    canvas = background.copy()
    word_weights = np.zeros((count, len(attributes.WORDS)), np.float32)
    pairs = np.zeros((count, PAIRS), np.float32)
    patches = np.tile(attributes.nothing(), (count, len(PATCH_CENTERS), 1))
    captions: list[list[str]] = [[] for _ in range(count)]
    palette = np.array(list(COLORS.values()), np.float32)
    for layer in (1, 2):
        rows = np.flatnonzero(number >= layer)
        color, shape, states = random_objects(len(rows), rng)
        both = number[rows] == 2
        # Two shapes stand side by side, as in a collision; they seldom overlap elsewhere.
        states[both, 0] = np.where(layer == 1, rng.uniform(6, 30, both.sum()), rng.uniform(34, SIZE - 6, both.sum()))
        states[both, 2] = rng.uniform(6, 11, both.sum())
        described = attributes.weights(color, shape, states)
        word_weights[rows] += described
        away = np.linalg.norm(PATCH_CENTERS[None] - states[:, None, :2], axis=-1)
        image, patch = np.nonzero(away < states[:, 2:3] + 2)
        patches[rows[image], patch] = described[image]
        pairs[rows, color * len(SHAPES) + shape] = 1
        keep = rng.random((len(rows), 4)) < (0.6, 0.8, 0.7, 0.3)
        for row, weight, kept in zip(rows, described, keep, strict=True):
            captions[row].append(attributes.caption(weight, kept))
        for kind in range(len(SHAPES)):
            mine = shape == kind
            if mine.any():
                pictures = canvas[rows[mine]]
                draw(pictures, palette[color[mine]], SHAPES[kind], states[mine])
                canvas[rows[mine]] = pictures
    word_weights[number == 0] = attributes.nothing()
    points = ((np.arange(GRID * MASK) + 0.5) * SIZE / (GRID * MASK)).astype(int)
    mask = (np.abs(canvas - background).max(-1) > 10)[:, points][:, :, points].reshape(count, GRID, MASK, GRID, MASK)
    mask = mask.swapaxes(2, 3).reshape(count, GRID * GRID, MASK * MASK)
    patches = np.concatenate([patches, mask], axis=-1, dtype=np.float32)
    return (
        _degrade(canvas, rng),
        word_weights,
        pairs,
        patches,
        [" and ".join(c) or "there is nothing" for c in captions],
    )


def _degrade(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What cameras and codecs do: dimming, softness, noise."""
    count = len(canvas)
    dim = np.where(rng.random(count) < 0.2, rng.uniform(0.4, 1.05, count), 1.0).astype(np.float32)
    soft = rng.random(count) < 0.35
    blurred = canvas[soft]
    blurred = (np.roll(blurred, 1, 1) + 2 * blurred + np.roll(blurred, -1, 1)) / 4
    canvas[soft] = (np.roll(blurred, 1, 2) + 2 * blurred + np.roll(blurred, -1, 2)) / 4
    sigma = np.where(rng.random(count) < 0.1, rng.uniform(12, 34, count), rng.uniform(0, 6, count)).astype(np.float32)
    noise = rng.standard_normal((*canvas.shape[:3], 1), np.float32) * sigma[:, None, None, None]
    return np.clip(canvas * dim[:, None, None, None] + noise, 0, 255).astype(np.uint8)


def preprocess(pictures: jax.Array) -> jax.Array:
    """`[n, SIZE, SIZE, 3]` uint8 -> `[n, IMAGE_SIZE, IMAGE_SIZE, 3]` float32, as the extractor does it."""
    x = pictures.astype(jnp.float32) / 255
    x = jax.image.resize(x, (len(x), IMAGE_SIZE, IMAGE_SIZE, 3), "bicubic")
    return (jnp.clip(x, 0, 1) - jnp.array(MEAN)) / jnp.array(STD)


def loss_fn(
    params: Any, graphdef: nnx.GraphDef, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """CLIP's symmetric contrastive loss plus the read-outs of the image (words, pairs) and of its patches (words)."""
    model = nnx.merge(graphdef, params["clip"])
    tokens = model.vision.hidden_states(preprocess(batch["pictures"]))[-1]  # [B, 1 + PATCHES, W]
    image = model.visual_projection(model.vision.post_layernorm(tokens[:, 0]))
    text = model.encode_text(batch["tokens"])[1]
    unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    similarity = jnp.exp(jnp.minimum(model.logit_scale[...], jnp.log(100.0))) * unit(image[:CAPTIONED]) @ unit(text).T
    # Rows with the same caption are not each other's negatives.
    same = jnp.all(batch["tokens"][:, None] == batch["tokens"][None], axis=-1)
    similarity = jnp.where(same & ~jnp.eye(len(same), dtype=bool), -1e9, similarity)
    labels = jnp.arange(len(similarity))
    contrastive = optax.softmax_cross_entropy_with_integer_labels
    clip_loss = (contrastive(similarity, labels) + contrastive(similarity.T, labels)).mean() / 2
    read = image @ params["head"]["kernel"] + params["head"]["bias"]
    error = (COSTS * jnp.square(read[:, :-PAIRS] - batch["weights"])).sum(-1).mean()
    pair_loss = optax.sigmoid_binary_cross_entropy(read[:, -PAIRS:], batch["pairs"]).sum(-1).mean()
    local = tokens[:, 1:] @ params["patch_head"]["kernel"] + params["patch_head"]["bias"]
    covered = 1 - 0.9 * batch["patches"][..., attributes.WORDS.index(attributes.NOTHING)]  # most show nothing
    patch_error = (jnp.square(local - batch["patches"]).sum(-1) * covered).sum() / covered.sum()
    loss = clip_loss + 2 * error + 0.5 * pair_loss + 2 * patch_error
    return loss, (clip_loss, error, pair_loss, patch_error)


@partial(jax.jit, static_argnames=("graphdef", "tx"), donate_argnums=(0, 1))
def _train_step(params, opt_state, batch, *, graphdef, tx):
    (_, parts), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, graphdef, batch)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, parts


def read_outs(config: CLIPConfig, seed: int) -> dict[str, dict[str, jax.Array]]:
    """Fresh linear layers from the image to words and pairs, from a patch to words and mask; not kept afterwards."""
    width, words = config.projection_dim, len(attributes.WORDS)
    kernel = jax.random.normal(jax.random.key(seed), (width, words + PAIRS)) * width**-0.5
    patch_kernel = jnp.zeros((config.vision.hidden_size, words + MASK**2))
    return {
        "head": {"kernel": kernel, "bias": jnp.zeros(words + PAIRS)},
        "patch_head": {"kernel": patch_kernel, "bias": jnp.zeros(())},
    }


def make_batch(tokenizer: PreTrainedTokenizerBase, size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What `sample_images` draws, by name; `tokens` [CAPTIONED, CAPTION_TOKENS] int32 are of the first captions."""
    pictures, word_weights, pairs, patches, captions = sample_images(size, rng)
    tokens = tokenize(tokenizer, captions[:CAPTIONED])
    return {"pictures": pictures, "weights": word_weights, "pairs": pairs, "patches": patches, "tokens": tokens}


def tokenize(tokenizer: PreTrainedTokenizerBase, captions: list[str]) -> np.ndarray:
    """Token ids `[len(captions), CAPTION_TOKENS]` int32."""
    padded = {"padding": "max_length", "max_length": CAPTION_TOKENS, "return_tensors": "np"}
    return tokenizer(captions, **padded)["input_ids"].astype(np.int32)


def train(
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int = 0,
    steps: int = 4000,
    batch_size: int = 64,
    checkpoint: Path | None = None,
) -> CLIP:
    """Trains the tiny CLIP and returns it.

    Args:
      steps: batches of `batch_size` pictures.
      checkpoint: a file that is written every 200 steps; the training goes on from it if it is there.
    """
    model = CLIP(tiny_config(tokenizer), rngs=nnx.Rngs(seed))
    graphdef, state = nnx.split(model)
    params = {"clip": state, **read_outs(model.config, seed)}
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1.5e-3, min(200, steps // 10), steps, 1e-5)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.02))
    opt_state = tx.init(params)

    make = lambda step: make_batch(tokenizer, batch_size, np.random.default_rng([seed, step]))
    started = time.time()
    with ThreadPoolExecutor(1) as pool:
        first = 0
        if checkpoint and checkpoint.exists():
            params, opt_state, first = pickle.loads(checkpoint.read_bytes())
        ahead = pool.submit(make, first)
        for step in range(first, steps):
            batch, ahead = ahead.result(), pool.submit(make, step + 1)
            params, opt_state, parts = _train_step(params, opt_state, batch, graphdef=graphdef, tx=tx)
            if checkpoint and (step + 1) % 200 == 0:
                checkpoint.write_bytes(pickle.dumps(jax.device_get((params, opt_state, step + 1))))
            if step % 50 == 0:
                names = zip(("clip", "words", "pairs", "patches"), map(float, parts), strict=True)
                losses = " ".join(f"{name} {value:.3f}" for name, value in names)
                log.info("step %d %s %.0f s", step, losses, time.time() - started)
    return nnx.merge(graphdef, params["clip"])


def probe(encode: Callable[[np.ndarray], np.ndarray], *, seed: int = 1, count: int = 4000) -> dict[str, float]:
    """Held-out accuracy of linear probes for color, shape, size, position and orientation.

    Args:
      encode: pictures `[n, SIZE, SIZE, 3]` uint8 -> features `[n, D]`.

    Values close to the border between two words (weight < 0.6) have no right answer and are left out.
    """
    rng = np.random.default_rng([seed, 999])
    pictures, word_weights, pairs, _, _ = sample_images(count, rng)
    one = pairs.sum(1) == 1
    bright = word_weights[:, attributes.WORDS.index("bright")] > 0.5
    keep = one & bright
    features = np.asarray(encode(pictures[keep]), np.float64)
    features = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    word_weights = word_weights[keep]
    half = len(features) // 2
    groups = {
        "color": tuple(COLORS), "shape": SHAPES, "size": attributes.SIZES, "horizontal": attributes.HORIZONTAL,
        "vertical": attributes.VERTICAL, "orientation": attributes.HEADINGS,
    }  # fmt: skip
    accuracy = {}
    for name, words in groups.items():
        columns = [attributes.WORDS.index(word) for word in words]
        target = word_weights[:, columns]
        solution = np.linalg.lstsq(features[:half], target[:half], rcond=None)[0]
        clear = target[half:].max(1) > 0.6
        guess = (features[half:] @ solution).argmax(1)
        accuracy[name] = float((guess == target[half:].argmax(1))[clear].mean())
    return accuracy
