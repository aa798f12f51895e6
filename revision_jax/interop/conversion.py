"""Converts models of other projects into directories that a config can name: one converter a format.

A converter fills a folder and returns the check that reads it back.
"""

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from revision_jax.interop import clip
from revision_jax.interop.adapter import load_dense_adapter, save_projector
from revision_jax.interop.check import Comparison, compare
from revision_jax.interop.encoder import EncoderKind, abstract, load
from revision_jax.interop.encoders import ENCODERS
from revision_jax.interop.families import read_family
from revision_jax.interop.files import read_tensors
from revision_jax.interop.folding import FoldedLlama
from revision_jax.interop.gguf import check_gguf, convert_gguf
from revision_jax.interop.grounder_check import video_tokens
from revision_jax.interop.llama import read_llama_config
from revision_jax.interop.merged import MergedLlama
from revision_jax.interop.openai_clip import openai_clip_config, openai_to_hugging_face
from revision_jax.interop.output import byte_progress, copy_tokenizer, write_json
from revision_jax.interop.shards import write_shards
from revision_jax.interop.streaming import embed, stream_logits
from revision_jax.interop.table import flat_params, import_params, match
from revision_jax.interop.weights import Weights, weights_dtype
from revision_jax.models.clip import CLIPTextConfig
from revision_jax.models.encoder import EncoderConfig, ImageTextEncoder
from revision_jax.models.visual import Visual

PROJECTOR = "projector.safetensors"
Check = Callable[[], dict[str, Comparison]]


class Output(NamedTuple):
    """Where weights are written: a folder, in a type (empty: the source's), in files of at most so many bytes."""

    folder: Path
    dtype: str
    shard_bytes: int


def from_llama(source: Path, folder: Path, dtype: str, shard_bytes: int, adapter: str | Path | None = None) -> Check:
    """A language model's directory (`families.py`), in .bin or safetensors, and an adapter of PEFT folded into it."""
    config, weights = read_llama_config(source), Weights(source)
    dtype = np.dtype(dtype or weights_dtype(weights))
    if adapter is None:
        tensors = MergedLlama(config, weights, None, source=source)
    else:
        tensors = FoldedLlama(config, weights, adapter, source=source)
    _copy(tensors, folder, dtype, shard_bytes)
    raw = read_family(source)
    raw.pop("torch_dtype", None)
    write_json(folder / "config.json", raw | {"dtype": dtype.name})
    copy_tokenizer(source, folder)

    def check() -> dict[str, Comparison]:
        tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 24))
        run = lambda tensors: stream_logits(config, tensors, embed(tensors, tokens))
        return {"logits": compare(run(tensors), run(Weights(folder)), dtype, np.ones(tokens.shape, bool))}

    return check


def from_gguf(source: Path, folder: Path, dtype: str, shard_bytes: int) -> Check:
    """A .gguf file of a language model."""
    kind = np.dtype(dtype or np.float32)
    references = convert_gguf(source, folder, kind, shard_bytes)
    return lambda: check_gguf(folder, references, kind)


def from_encoder(kind: EncoderKind, source: Path, folder: Path, dtype: str, shard_bytes: int) -> Check:
    """A directory of an encoder (`CLIPModel`, `SiglipModel`), in .bin or safetensors."""
    check = _write_encoder(kind, kind.read_config(source), Weights(source), source, Output(folder, dtype, shard_bytes))
    copy_tokenizer(source, folder)
    return check


def from_openai_clip(source: Path, folder: Path, dtype: str, shard_bytes: int) -> Check:
    """One of OpenAI's .pt files; its tokenizer is not in it."""
    tensors = read_tensors(source)
    config = openai_clip_config(tensors, str(source))
    output = Output(folder, dtype, shard_bytes)
    return _write_encoder(clip.KIND, config, openai_to_hugging_face(tensors), source, output)


def from_projector(source: Path, folder: Path, dtype: str, shard_bytes: int) -> Check:
    """VTimeLLM's mm_projector.bin, or any file of a dense projector."""
    adapter = load_dense_adapter(source)
    save_projector(adapter, folder / PROJECTOR)

    def check() -> dict[str, Comparison]:
        written = load_dense_adapter(folder / PROJECTOR)
        pair = (video_tokens(Visual(one), "dense", 2) for one in (adapter, written))
        return {"features": compare(*pair, np.float32)}

    return check


CONVERTERS = {
    "llama": from_llama,
    "gguf": from_gguf,
    **{name: functools.partial(from_encoder, kind) for name, kind in ENCODERS.items()},
    "openai-clip": from_openai_clip,
    "projector": from_projector,
}


def _copy(tensors: Mapping[str, Any], folder: Path, dtype: np.dtype, shard_bytes: int) -> None:
    total = sum(math.prod(tensor.shape) for tensor in tensors.values()) * dtype.itemsize
    with byte_progress("converts", total) as advance:
        write_shards(tensors, folder, dtype=dtype, shard_bytes=shard_bytes, on_bytes=advance)


def _write_encoder(
    kind: EncoderKind, config: EncoderConfig, tensors: Mapping[str, Any], source: Path, output: Output
) -> Check:
    match(kind.table, tensors, flat_params(abstract(kind, config)), source)
    kept = {key: tensor for key, tensor in tensors.items() if not kind.table.is_ignored(key)}
    dtype = np.dtype(output.dtype or weights_dtype(kept))
    _copy(kept, output.folder, dtype, output.shard_bytes)
    write_json(output.folder / "config.json", kind.to_config(config))

    def check() -> dict[str, Comparison]:
        model = abstract(kind, config)
        import_params(kind.table, tensors, flat_params(model), source=source)
        read = encoder_features(model)
        written = encoder_features(load(kind, output.folder))
        return {name: compare(read[name], written[name], dtype) for name in read}

    return check


def encoder_features(model: ImageTextEncoder) -> dict[str, np.ndarray]:
    """Of fixed images and texts: images [2, D], texts [2, D], text tokens [2, T, W], and the logits of all pairs."""
    rng, config = np.random.default_rng(0), model.config
    size, text = config.vision.image_size, config.text
    pixels = rng.standard_normal((2, size, size, 3)).astype(np.float32)
    length = min(12, text.max_position_embeddings)
    tokens = rng.integers(0, text.vocab_size - 1, (2, length))
    if isinstance(text, CLIPTextConfig):  # its feature is that of the end of a text, which stands once
        end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
        tokens[tokens == end] = 0
        tokens[:, -1] = end
    graphdef, state = nnx.split(model)

    @jax.jit
    def encode(state: nnx.State, pixels: jax.Array, tokens: jax.Array) -> dict[str, jax.Array]:
        model = nnx.merge(graphdef, state)
        images, (features, texts) = model.encode_image(pixels), model.encode_text(tokens)
        return {"images": images, "texts": texts, "text tokens": features, "logits": model.logits(images, texts)}

    return {name: np.asarray(array) for name, array in encode(state, pixels, tokens).items()}
