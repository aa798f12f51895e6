"""Frames and sentences -> CLIP features: one extractor for training, evaluation and a user's own video.

Letters: N sampled frames of a video, S image side, D projected width, Q sentences, T text tokens, W text
width.
"""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax.data.store.features import first_non_finite
from revision_jax.data.video import frames as video
from revision_jax.data.video.background import in_background
from revision_jax.data.video.scaling import Scaler
from revision_jax.interop.clip import load_clip, read_clip_config
from revision_jax.interop.clip_processor import is_triple
from revision_jax.interop.weights import weight_files
from revision_jax.known_keys import Kind, check_kinds
from revision_jax.parallel.memory import held
from revision_jax.parallel.mesh import batch_sharding, check_batch, replicated
from revision_jax.prompts import clip_query
from revision_jax.text import read_object
from revision_jax.tokenizer_files import load_tokenizer

# OpenAI's constants, which every CLIP directory without a preprocessor_config.json uses.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
TEXT_BATCH = 64
_TRIPLE = Kind(is_triple, "three numbers")


@dataclasses.dataclass(frozen=True)
class VideoFeatures:
    """Features of one video: [N, D] float16, one row every 1/fps seconds; its length in seconds."""

    features: np.ndarray
    duration_s: float
    fps: float


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Which CLIP made some features; an `Extractor` has these attributes too.

    name: shown in messages. fingerprint: `encoder_sha256`. width: D. fps: stored frames a second.
    """

    name: str
    fingerprint: str
    width: int
    fps: float


def identify(clip_dir: str | os.PathLike, fps: float) -> Encoder:
    """The encoder in a CLIP directory, without loading its weights; for features that somebody else made."""
    clip_dir = pathlib.Path(clip_dir)
    path = clip_dir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a Hugging Face directory of a CLIPModel")
    fingerprint = encoder_sha256(clip_dir, *read_normalisation(clip_dir))
    return Encoder(encoder_name(clip_dir), fingerprint, read_clip_config(clip_dir).projection_dim, fps)


def encoder_name(clip_dir: pathlib.Path) -> str:
    """The last two folders of its path."""
    return f"{clip_dir.parent.name}/{clip_dir.name}"


class Extractor:
    """CLIP as a function from video files, frames and sentences to features.

    One program a tower, compiled once for a fixed batch (the last is padded), under the mesh if one is given:
    weights replicated, batches split. Frames are decoded in a thread while the encoder works.

    Args:
      clip_dir: Hugging Face directory: config.json, safetensors, tokenizer, preprocessor_config.json.
      fps: frames a second to sample.
      batch: frames a call of the encoder.
    """

    def __init__(
        self,
        clip_dir: str | os.PathLike,
        fps: float,
        batch: int = 128,
        *,
        mesh: jax.sharding.Mesh | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
    ):
        self.clip_dir, self.fps, self.batch = pathlib.Path(clip_dir), fps, batch
        if mesh is not None:
            check_batch(mesh, batch)
        clip = load_clip(self.clip_dir, dtype=dtype)
        self.width = clip.config.projection_dim
        self.image_size = clip.config.vision.image_size
        self.text_length = clip.config.text.max_position_embeddings
        mean, std = read_normalisation(self.clip_dir)
        self.name = encoder_name(self.clip_dir)
        self.fingerprint = encoder_sha256(self.clip_dir, mean, std)
        graphdef, self._weights = nnx.split(clip)
        self._rows = None
        if mesh is not None:
            self._weights = jax.device_put(self._weights, replicated(mesh))
            self._rows = batch_sharding(mesh)

        @jax.jit
        def encode_text(weights: nnx.State, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
            features, holistic = nnx.merge(graphdef, weights).encode_text(tokens)
            return features.astype(jnp.float32), holistic.astype(jnp.float32)

        self._encode_image = jax.jit(functools.partial(encode_images, graphdef, mean, std))
        self._encode_text = encode_text

    @property
    def held_bytes(self) -> int:
        """Bytes that the encoder takes of a device."""
        return held(self._weights)

    @property
    def compile_count(self) -> int:
        """Programs compiled so far: at most one a tower."""
        return self._encode_image._cache_size() + self._encode_text._cache_size()

    def encode_video(self, path: str | os.PathLike, *, allow_truncated: bool = False) -> VideoFeatures:
        """Decodes a file at `fps` and encodes it; VideoError (see frames.py) if it cannot be used."""
        frames = video.read_frames(path, self.fps, self.image_size, batch=self.batch, allow_truncated=allow_truncated)
        features = self.encode_frames(frames, name=str(path))
        return VideoFeatures(features, frames.duration_s, self.fps)

    def encode_frames(self, frames: Iterable[np.ndarray], name: str = "frames") -> np.ndarray:
        """Batches of frames, uint8 [n, height, width, 3] of any n and size -> features [N, D] float16.

        Frames of another size are scaled as those of a file are. `frames` is consumed in a thread.
        Raises ValueError naming `name` and the frame if a feature is NaN or infinite.
        """
        done: list[np.ndarray] = []
        waiting: list[tuple[jax.Array, int]] = []
        for batch, count in in_background(self._fixed_batches(frames), depth=4):
            waiting.append((self.encode_batch(batch), count))
            if len(waiting) > 2:  # the encoder works on the next batch while this one is fetched
                done.append(self._fetch(*waiting.pop(0)))
        done += [self._fetch(*item) for item in waiting]
        features = np.concatenate(done) if done else np.empty((0, self.width), np.float16)
        if (bad := first_non_finite(features)) is not None:
            raise ValueError(
                f"{name}: the encoder {self.name} gives NaN or infinity at frame {bad} "
                f"({bad / self.fps:.2f} s); expected finite float16. Check the weights"
            )
        return features

    def encode_queries(self, sentences: Sequence[str]) -> np.ndarray:
        """Holistic features [Q, D] float32 of sentences: the projected end-of-text embedding."""
        return self._encode_sentences(sentences)[1]

    def encode_query_tokens(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token features [Q, T, W] float32 and their mask [Q, T] bool, without start and end tokens.

        Not projected, after the text tower's last norm: input of the sparse adapter. T is its length - 2.
        """
        features, _, lengths = self._encode_sentences(sentences)
        mask = np.arange(self.text_length - 2) < (lengths - 2)[:, None]
        return features[:, 1:-1] * mask[..., None], mask

    def _encode_sentences(self, sentences):
        tokens, lengths = self._tokenize(sentences)
        features, holistic = [], []
        for start in range(0, len(tokens), TEXT_BATCH):
            batch = tokens[start : start + TEXT_BATCH]
            padded = np.concatenate([batch, np.repeat(tokens[:1], TEXT_BATCH - len(batch), axis=0)])
            outputs = jax.device_get(self._encode_text(self._weights, padded))
            features.append(outputs[0][: len(batch)])
            holistic.append(outputs[1][: len(batch)])
        return np.concatenate(features), np.concatenate(holistic), lengths

    def _tokenize(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Sentences -> tokens [Q, T] int32, padded with the end token, and lengths [Q] with both ends."""
        if isinstance(sentences, str) or not len(sentences):
            raise ValueError(f"sentences is {sentences!r}; expected a list of one or more sentences")
        tokenizer = load_tokenizer(str(self.clip_dir))
        end = tokenizer.eos_token_id
        rows = tokenizer([clip_query(sentence) for sentence in sentences])["input_ids"]
        if rows[0][-1] != end:
            raise ValueError(f"{self.clip_dir}: its tokenizer ends a text with token {rows[0][-1]}; expected {end}")
        long = [s for s, row in zip(sentences, rows, strict=True) if len(row) > self.text_length]
        if long:
            logging.warning(
                "%d sentences exceed CLIP's %d tokens and are cut: %r, ...",
                len(long),
                self.text_length,
                long[0],
            )
            rows = [row if len(row) <= self.text_length else [*row[: self.text_length - 1], end] for row in rows]
        tokens = np.full((len(rows), self.text_length), end, np.int32)
        for padded, row in zip(tokens, rows, strict=True):
            padded[: len(row)] = row
        return tokens, np.array([len(row) for row in rows])

    def _fixed_batches(self, frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        """Scales and regroups frames into ([batch, S, S, 3], how many of them are real)."""
        scale = Scaler(self.image_size)
        buffer = np.zeros((self.batch, self.image_size, self.image_size, 3), np.uint8)
        filled = 0
        for group in frames:
            group = scale.array(group)
            while len(group):
                taken = min(len(group), self.batch - filled)
                buffer[filled : filled + taken] = group[:taken]
                group, filled = group[taken:], filled + taken
                if filled == self.batch:
                    yield buffer.copy(), filled
                    filled = 0
        if filled:
            yield buffer.copy(), filled

    def encode_batch(self, frames: np.ndarray) -> jax.Array:
        """Exactly `batch` frames of the encoder's size, uint8 [batch, S, S, 3] -> features [batch, D] on the device."""
        return self._encode_image(self._weights, jax.device_put(frames, self._rows))

    @staticmethod
    def _fetch(features: jax.Array, count: int) -> np.ndarray:
        return np.asarray(features)[:count]


def encode_images(
    graphdef: nnx.GraphDef, mean: Sequence[float], std: Sequence[float], weights: nnx.State, frames: jax.Array
) -> jax.Array:
    """uint8 [B, S, S, 3] -> [B, D] float16; mean and standard deviation of RGB in 0..1."""
    pixels = (frames.astype(jnp.float32) / 255 - jnp.array(mean)) / jnp.array(std)
    return nnx.merge(graphdef, weights).encode_image(pixels).astype(jnp.float16)


def read_normalisation(clip_dir: pathlib.Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in 0..1 from preprocessor_config.json, else OpenAI's."""
    path = clip_dir / "preprocessor_config.json"
    config = read_object(path) if path.is_file() else {}
    check_kinds(path, config, {"image_mean": _TRIPLE, "image_std": _TRIPLE})
    return tuple(config.get("image_mean", CLIP_MEAN)), tuple(config.get("image_std", CLIP_STD))


def encoder_sha256(clip_dir: pathlib.Path, mean: Sequence[float], std: Sequence[float]) -> str:
    """Fingerprint of all that decides a feature: the files of the weights, and the normalisation."""
    digest = hashlib.sha256(json.dumps([list(mean), list(std)]).encode())
    for path in weight_files(clip_dir):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
