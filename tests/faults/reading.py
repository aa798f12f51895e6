"""The readers of strangers' files, each called in a process of its own: prints the value, or the error of a person.

What is opened between two marks, as `strace` tells it, was opened by the reader.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from revision_jax.config import load_json
from revision_jax.data.annotations.queries import load_queries
from revision_jax.data.builders.datasets import DATA_SETS, Given
from revision_jax.data.store.manifest import Manifest
from revision_jax.data.video.frames import probe, read_frames
from revision_jax.interop.clip import PICTURES
from revision_jax.interop.encoders import read_encoder_config
from revision_jax.interop.llama import load_llama, read_llama_config
from revision_jax.interop.lora import read_lora
from revision_jax.interop.peft_config import read_kind
from revision_jax.interop.pictures import read_pictures
from revision_jax.interop.table import flat_params
from revision_jax.interop.weights import Weights
from revision_jax.runs.asking import read_sentences
from revision_jax.tokenizer_files import load_tokenizer

MARK = "/reading-of"  # no such file: only its name is seen
FPS, SIZE = 2.0, 32


def main(argv: Sequence[str]) -> None:
    """`main([number, reader, path, options as JSON])`."""
    number, reader, path, how = argv
    with _marked(number):
        try:
            answer = {"value": READERS[reader](Path(path), **json.loads(how))}
        except (ValueError, OSError, ImportError, NotImplementedError, MemoryError) as error:  # as `verb.run`
            answer = {"error": str(error)}
    print(json.dumps(answer))


@contextlib.contextmanager
def _marked(number: str) -> Iterator[None]:
    for edge in ("begin", "end"):
        with contextlib.suppress(OSError):
            os.open(f"{MARK}/{number}/{edge}", os.O_RDONLY)
        if edge == "begin":
            yield


def video(path: Path) -> dict[str, Any]:
    """Brightness, in tens, of the frame shown at every half second; the length."""
    probe(path)
    reader = read_frames(path, FPS, SIZE)
    frames = np.concatenate(list(reader))
    return {"shown": np.round(frames.mean(axis=(1, 2, 3)) / 10).astype(int).tolist(), "duration_s": reader.duration_s}


def annotations(path: Path, form: str, keys: Sequence[str] = (), csv: bool = False) -> dict[str, Any]:
    """The rows, and how many could not be read."""
    given = Given(None if csv else str(path), keys, {"ids": None, "csv": str(path) if csv else None})
    found = DATA_SETS[form].read(given)
    rows = [[r.query_id, r.video_id, r.sentence, r.moments, r.duration_s] for r in found.rows]
    return {"rows": rows, "gaps": len(found.gaps)}


def queries(path: Path) -> list:
    """Of a file in this project's form."""
    return [[q.query_id, q.video_id, q.sentence, q.moments, q.distractors] for q in load_queries(path)]


def sentences(path: Path) -> list[str]:
    """Of a text file, a line each."""
    return read_sentences((), str(path))


def _sha(array: Any) -> list:
    array = np.ascontiguousarray(array)
    return [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()[:16]]


def tensors(path: Path) -> dict[str, list]:
    """Name -> dtype, shape and hash of every tensor of a directory."""
    return {name: _sha(np.asarray(tensor)) for name, tensor in Weights(path).items()}


def model(path: Path) -> dict[str, list]:
    """Path -> dtype, shape and hash of every parameter of a language model."""
    return {name: _sha(param[...]) for name, param in flat_params(load_llama(path)).items()}


def config(path: Path) -> list:
    """Sizes of a language model."""
    found = read_llama_config(path)
    return [found.vocab_size, found.hidden_size, found.num_layers, found.num_heads]


def lora(path: Path, base: str) -> dict[str, list[float]]:
    """Layer -> a few values of what is added to its kernel, and their sum."""
    found = read_lora(path, read_llama_config(base))
    added = {}
    for name in {name.rpartition("/")[0] for name in found.arrays}:
        a, b = (np.float64(found.arrays[f"{name}/lora_{half}"]) for half in "ab")
        for layer, delta in enumerate(found.config.scale * a @ b):
            if np.any(delta):
                added[f"{layer}.{name.rpartition('/')[2]}"] = [*delta.ravel()[:4], delta.sum()]
    return added


FORMS = {
    "llm": read_llama_config, "tokenizer": lambda path: load_tokenizer(str(path)), "encoder": read_encoder_config,
    "pictures": lambda path: read_pictures(path, PICTURES, 48), "kind": lambda path: read_kind(path, 2),
    "manifest": Manifest.load, "run": lambda path: load_json(path / "config.json"),
}  # fmt: skip


def form(path: Path, what: str) -> str:
    """Whether a JSON file is what it should be."""
    FORMS[what](path)
    return "read"


READERS = {read.__name__: read for read in (video, annotations, queries, sentences, tensors, model, config, lora, form)}
