"""Converts models of other projects into directories that a config can name: one converter a format.

A converter fills a folder and returns the check that reads it back.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from revision_jax.interop.adapter import load_dense_adapter, save_projector
from revision_jax.interop.check import Comparison, compare
from revision_jax.interop.clip import CLIP_TABLE, clip_to_config, load_clip, read_clip_config
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
from revision_jax.models.clip import CLIP, CLIPConfig

Check = Callable[[], dict[str, Comparison]]
PROJECTOR = "projector.safetensors"


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


def from_clip(source: Path, folder: Path, dtype: str, shard_bytes: int) -> Check:
    """A `CLIPModel` directory, in .bin or safetensors."""
    check = _write_clip(read_clip_config(source), Weights(source), source, folder, dtype, shard_bytes)
    copy_tokenizer(source, folder)
    return check


def from_openai_clip(source: Path, folder: Path, dtype: str, shard_bytes: int) -> Check:
    """One of OpenAI's .pt files; its tokenizer is not in it."""
    tensors = read_tensors(source)
    config = openai_clip_config(tensors, str(source))
    return _write_clip(config, openai_to_hugging_face(tensors), source, folder, dtype, shard_bytes)


def from_projector(source: Path, folder: Path, dtype: str, shard_bytes: int) -> Check:
    """VTimeLLM's mm_projector.bin, or any file of a dense projector."""
    adapter = load_dense_adapter(source)
    save_projector(adapter, folder / PROJECTOR)

    def check() -> dict[str, Comparison]:
        pair = (video_tokens(one, 2) for one in (adapter, load_dense_adapter(folder / PROJECTOR)))
        return {"features": compare(*pair, np.float32)}

    return check


CONVERTERS = {
    "llama": from_llama,
    "gguf": from_gguf,
    "clip": from_clip,
    "openai-clip": from_openai_clip,
    "projector": from_projector,
}


def _copy(tensors: Mapping[str, Any], folder: Path, dtype: np.dtype, shard_bytes: int) -> None:
    total = sum(math.prod(tensor.shape) for tensor in tensors.values()) * dtype.itemsize
    with byte_progress("converts", total) as advance:
        write_shards(tensors, folder, dtype=dtype, shard_bytes=shard_bytes, on_bytes=advance)


def _write_clip(
    config: CLIPConfig, tensors: Mapping[str, Any], source: Path, folder: Path, dtype: str, shard_bytes: int
) -> Check:
    abstract = lambda: nnx.eval_shape(lambda: CLIP(config, rngs=nnx.Rngs(0)))
    match(CLIP_TABLE, tensors, flat_params(abstract()), source)
    kept = {key: tensor for key, tensor in tensors.items() if not CLIP_TABLE.is_ignored(key)}
    kind = np.dtype(dtype or weights_dtype(kept))
    _copy(kept, folder, kind, shard_bytes)
    write_json(folder / "config.json", clip_to_config(config))

    def check() -> dict[str, Comparison]:
        model = abstract()
        import_params(CLIP_TABLE, tensors, flat_params(model), source=source)
        read = clip_features(model)
        written = clip_features(load_clip(folder))
        return {name: compare(read[name], written[name], kind) for name in read}

    return check


def clip_features(model: CLIP) -> dict[str, np.ndarray]:
    """Features of fixed images and texts: images [2, D], texts [2, D], text tokens [2, T, W]."""
    rng, config = np.random.default_rng(0), model.config
    size, text = config.vision.image_size, config.text
    pixels = rng.standard_normal((2, size, size, 3)).astype(np.float32)
    length = min(12, text.max_position_embeddings)
    end = text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id
    tokens = rng.integers(0, text.vocab_size - 1, (2, length))
    tokens[tokens == end] = 0
    tokens[:, -1] = end
    graphdef, state = nnx.split(model)

    @jax.jit
    def encode(state: nnx.State, pixels: jax.Array, tokens: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        model = nnx.merge(graphdef, state)
        return model.encode_image(pixels), model.encode_text(tokens)

    images, (features, holistic) = encode(state, pixels, tokens)
    return {"images": np.asarray(images), "texts": np.asarray(holistic), "text tokens": np.asarray(features)}
