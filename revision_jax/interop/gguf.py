"""A GGUF file of a language model, read by transformers, and compared with it: logits of five prompts, greedy answers.

Its family must be one of `families.py`.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from revision_jax.interop.check import Comparison, compare
from revision_jax.interop.families import FAMILIES
from revision_jax.interop.llama import load_llama, read_llama_config
from revision_jax.interop.merged import MergedLlama
from revision_jax.interop.output import byte_progress, write_json
from revision_jax.interop.shards import write_shards
from revision_jax.interop.torch_files import to_numpy
from revision_jax.models.llama import KVCache, Llama

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):",
    "Question: how many minutes does an hour have? Answer:",
    "A man opens the door, looks around and",
)
NEW_TOKENS = 32
_OF_THE_SOURCE = ("quantization_config", "_name_or_path", "_model_name_or_path")


class Reference(NamedTuple):
    """What transformers computes for a prompt: its tokens [T], logits [T, V] float32, greedy tokens [NEW_TOKENS]."""

    tokens: np.ndarray
    logits: np.ndarray
    answer: np.ndarray


def convert_gguf(source: Path, folder: Path, dtype: Any, shard_bytes: int) -> list[Reference]:
    """Writes a Hugging Face directory with tokenizer; returns what transformers computes for `PROMPTS`.

    The file is widened to float32 in memory, once. Needs torch and gguf.
    """
    try:
        import gguf  # noqa: F401 - transformers asks for it much later, and less clearly
        import torch
    except ImportError as error:
        raise ImportError(f"reading {source} needs {error.name}: pip install 'revision_jax[gguf]'") from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    given = {"gguf_file": source.name, "trust_remote_code": False}  # a config.json beside it may ask for its code
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **given)
    model = AutoModelForCausalLM.from_pretrained(source.parent, dtype=torch.float32, **given).eval()
    if model.config.model_type not in FAMILIES:
        raise ValueError(f"{source}: holds a {model.config.model_type!r}; expected one of {', '.join(FAMILIES)}")
    references = [_reference(model, tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    # What is written is no GGUF any more, and has no other name than its folder.
    config = {key: value for key, value in model.config.to_dict().items() if key not in _OF_THE_SOURCE}
    architectures = [FAMILIES[model.config.model_type].architecture]
    write_json(folder / "config.json", config | {"architectures": architectures, "dtype": dtype.name})
    tokenizer.save_pretrained(folder)
    tensors = {key: to_numpy(tensor) for key, tensor in model.state_dict().items()}
    merged = MergedLlama(read_llama_config(folder), tensors, None, source=source)
    with byte_progress("writes", sum(merged[key].__array__().size for key in merged) * dtype.itemsize) as advance:
        write_shards(merged, folder, dtype=dtype, shard_bytes=shard_bytes, on_bytes=advance)
    return references


def _reference(model: Any, tokens: list[int]) -> Reference:
    import torch

    model.generation_config.eos_token_id = None  # goes on to the last token
    prompt = torch.tensor([tokens])
    with torch.no_grad():
        logits = model(prompt).logits[0].numpy()
        answer = model.generate(prompt, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
    return Reference(np.array(tokens), logits, answer[0, len(tokens) :].numpy())


def check_gguf(folder: Path, references: list[Reference], dtype: Any) -> dict[str, Comparison]:
    """Our model from the directory against transformers' from the GGUF, a prompt a row.

    Raises:
      CheckError: logits differ by more than `dtype` explains, or (in float32) greedy tokens differ.
    """
    model = load_llama(folder)
    graphdef, state = nnx.split(model)  # as an argument: weights in a program would be compiled into it

    @jax.jit
    def logits(state: nnx.State, tokens: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, state)
        return model.logits(model(model.embed(tokens)))

    found = {}
    for prompt, reference in zip(PROMPTS, references):
        ours = greedy(model, reference.tokens, len(reference.answer))
        rows = np.asarray(logits(state, reference.tokens[None]))[0]
        found[prompt] = compare(reference.logits, rows, dtype, tokens=(reference.answer, ours))
    return found


def greedy(model: Llama, prompt: np.ndarray, count: int) -> np.ndarray:
    """`count` tokens, each the most likely one behind `prompt` [T] and those before it."""

    graphdef, state = nnx.split(model)

    @jax.jit
    def decode(state: nnx.State, prompt: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, state)
        hidden, prefix = model.prefill(model.embed(prompt[None]))
        slots = jnp.arange(count)

        def step(carry: tuple[jax.Array, KVCache], slot: jax.Array) -> tuple[tuple, jax.Array]:
            token, suffix = carry
            position = (len(prompt) + slot)[None, None]
            mask = (slots <= slot)[None, None]
            hidden, suffix = model.extend(model.embed(token[None, None]), position, prefix, suffix, slot, mask)
            return (model.logits(hidden[0, -1]).argmax(-1), suffix), token

        first = model.logits(hidden[0, -1]).argmax(-1)
        suffix = KVCache.zeros(model.config, 1, count, hidden.dtype)
        return jax.lax.scan(step, (first, suffix), slots)[1]

    return np.asarray(decode(state, jnp.asarray(prompt)))
