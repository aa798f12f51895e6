"""Frames and sentences -> features: one extractor for training, evaluation and a user's own video.

Letters: N sampled frames of a video, S image side, D projected width, Q sentences, T text tokens, W text
width.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax.data.store.features import first_non_finite
from revision_jax.data.video import frames as video
from revision_jax.data.video.background import in_background
from revision_jax.data.video.scaling import Scaler, Square
from revision_jax.interop.encoder import load
from revision_jax.interop.encoders import encoder_kind
from revision_jax.interop.pictures import Pictures, read_pictures
from revision_jax.interop.texts import Texts, Tokens
from revision_jax.interop.weights import weight_files
from revision_jax.parallel.memory import held
from revision_jax.parallel.mesh import batch_sharding, check_batch, replicated, round_up_rows
from revision_jax.parallel.programs import Program
from revision_jax.units import MIB


class Rows(NamedTuple):
    """Rows of a call of the encoder: frames, sentences."""

    frames: int
    sentences: int


# A last batch is filled up, and what fills it is computed, too. A CPU is as fast with few rows, an accelerator is not.
ON_CPU, ON_ACCELERATOR = Rows(16, 8), Rows(128, 64)
KEPT_BYTES = 64 * MIB  # of the token features of the sentences encoded last, on the host


def rows_on(device: jax.Device) -> Rows:
    """Rows of a call of the encoder on such a device."""
    return ON_CPU if device.platform == "cpu" else ON_ACCELERATOR


@dataclasses.dataclass(frozen=True)
class VideoFeatures:
    """Features of one video: [N, D] float16, one row every 1/fps seconds; its length in seconds."""

    features: np.ndarray
    duration_s: float
    fps: float


@dataclasses.dataclass(frozen=True)
class Encoder:
    """Which encoder made some features; an `Extractor` has these attributes too.

    name: shown in messages. fingerprint: `encoder_sha256`. width: D. fps: stored frames a second.
    """

    name: str
    fingerprint: str
    width: int
    fps: float


def identify(directory: str | os.PathLike, fps: float) -> Encoder:
    """The encoder in a directory, without loading its weights; for features that somebody else made.

    Raises:
      FileNotFoundError, ValueError: no encoder, or one that is not supported here.
    """
    directory, kind = pathlib.Path(directory), encoder_kind(directory)
    config = kind.read_config(directory)
    pictures = read_pictures(directory, kind.pictures, config.vision.image_size)
    return Encoder(encoder_name(directory), encoder_sha256(directory, pictures), config.feature_width, fps)


def encoder_name(directory: pathlib.Path) -> str:
    """The last two folders of its path."""
    return f"{directory.parent.name}/{directory.name}"


class Extractor:
    """An encoder as a function from video files, frames and sentences to features.

    One program a tower, compiled once for a fixed batch (the last is padded), under the mesh if one is given:
    weights replicated, batches split. Frames are decoded in a thread while the encoder works.

    Args:
      directory: Hugging Face directory: config.json, safetensors, tokenizer, preprocessor_config.json. Its config.json
        says which encoder it is.
      fps: frames a second to sample.
      batch: frames a call of the encoder; by default what the device takes well, or a few more where a mesh does not
        divide them.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        fps: float,
        batch: int | None = None,
        *,
        mesh: jax.sharding.Mesh | None = None,
        dtype: jax.typing.DTypeLike = jnp.float32,
    ):
        directory = pathlib.Path(directory)
        usual = rows_on(jax.devices()[0] if mesh is None else mesh.devices.flat[0])
        if batch is None:
            batch = usual.frames if mesh is None else round_up_rows(usual.frames, mesh)
        if mesh is not None:
            check_batch(mesh, batch)
        self.fps, self.batch, self.text_batch = fps, batch, usual.sentences
        kind = encoder_kind(directory)
        encoder = load(kind, directory, dtype)
        self.width = encoder.config.feature_width
        pictures = read_pictures(directory, kind.pictures, encoder.config.vision.image_size)
        self.square = Square(pictures.size, pictures.crop, pictures.filter)
        self.name, self.fingerprint = encoder_name(directory), encoder_sha256(directory, pictures)
        self._texts = Texts(directory, kind.text, encoder.config.text.max_position_embeddings)
        self._tokenizing = threading.Lock()
        self._last_texts: tuple[bytes, tuple[np.ndarray, np.ndarray]] | None = None
        self._graphdef, self._weights = nnx.split(encoder)
        self._rows = None
        if mesh is not None:
            self._weights = jax.device_put(self._weights, replicated(mesh))
            self._rows = batch_sharding(mesh)
        self._encode_image = Program(encode_images, self._graphdef, tuple(pictures.mean), tuple(pictures.std))
        self._encode_text = Program(encode_texts, self._graphdef)

    def forget_pictures(self) -> None:
        """Frees the tower of pictures, the larger one, where only sentences will be encoded."""
        encoder = nnx.merge(self._graphdef, self._weights)
        encoder.vision = None
        self._graphdef, self._weights = nnx.split(encoder)
        self._encode_text = Program(encode_texts, self._graphdef)

    @property
    def held_bytes(self) -> int:
        """Bytes that the encoder takes of a device."""
        return held(self._weights)

    @property
    def compile_count(self) -> int:
        """Programs compiled so far: at most one a tower."""
        return self._encode_image.compile_count + self._encode_text.compile_count

    def encode_video(self, path: str | os.PathLike, *, allow_truncated: bool = False) -> VideoFeatures:
        """Decodes a file at `fps` and encodes it; VideoError (see frames.py) if it cannot be used."""
        frames = video.read_frames(path, self.fps, self.square, batch=self.batch, allow_truncated=allow_truncated)
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
        """Holistic features [Q, D] float32 of sentences, to be compared with those of frames."""
        return self._encode_tokens(self._tokens(sentences))[1]

    def encode_query_tokens(self, sentences: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token features [Q, T, W] float32 and their mask [Q, T] bool, without start and end tokens.

        Not projected, after the text tower's last norm: input of the sparse adapter. T is the longest sentence's.
        """
        tokens = self._tokens(sentences)
        places, mask = self._texts.inside(tokens)
        features, _ = self._encode_tokens(tokens)
        return features[:, places] * mask[..., None], mask

    def _tokens(self, sentences: Sequence[str]) -> Tokens:
        with self._tokenizing:  # a tokenizer is not safe for threads
            return self._texts(sentences)

    def _encode_tokens(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Token features and holistic ones. The last ones are kept, for one search after another asks for them."""
        asked, last = tokens.ids.tobytes(), self._last_texts
        if last is not None and last[0] == asked:
            return last[1]
        features, holistic = [], []
        for start in range(0, len(tokens.ids), self.text_batch):
            batch = tokens.ids[start : start + self.text_batch]
            padded = np.concatenate([batch, np.repeat(batch[:1], self.text_batch - len(batch), axis=0)])
            outputs = jax.device_get(self._encode_text(self._weights, padded))
            features.append(outputs[0][: len(batch)])
            holistic.append(outputs[1][: len(batch)])
        found = np.concatenate(features), np.concatenate(holistic)
        for rows in found:
            rows.flags.writeable = False
        if found[0].nbytes <= KEPT_BYTES:
            self._last_texts = asked, found
        return found

    def _fixed_batches(self, frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
        """Scales and regroups frames into ([batch, S, S, 3], how many of them are real)."""
        scale, side = Scaler(self.square), self.square.size
        buffer = np.zeros((self.batch, side, side, 3), np.uint8)
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


def encode_texts(graphdef: nnx.GraphDef, weights: nnx.State, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """int32 [B, T] -> token features [B, T, W] and holistic features [B, D], float32."""
    features, holistic = nnx.merge(graphdef, weights).encode_text(tokens)
    return features.astype(jnp.float32), holistic.astype(jnp.float32)


def encoder_sha256(directory: pathlib.Path, pictures: Pictures) -> str:
    """Fingerprint of all that decides a feature: the files of the weights, and how pictures are made."""
    made: list = [list(pictures.mean), list(pictures.std)]
    if (pictures.crop, pictures.filter) != (True, "bicubic"):  # CLIP's stores were made before there was another way
        made += [pictures.crop, pictures.filter]
    digest = hashlib.sha256(json.dumps(made).encode())
    for path in weight_files(directory):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
