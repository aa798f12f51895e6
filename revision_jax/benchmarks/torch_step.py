"""A train step in PyTorch for comparison: transformers' Llama with PEFT's LoRA and AdamW.

On one GPU in bf16 with dropout, as users train there; on CPU in float32 without.
"""

import contextlib
import functools
import importlib.util
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from revision_jax.models.llama import LlamaConfig
from revision_jax.models.names import LORA_TARGETS
from revision_jax.units import GIB


class TorchShape(NamedTuple):
    """A model with LoRA, and a batch: `rows` of `length` tokens; the loss is on the last `answer` of them."""

    sizes: LlamaConfig
    rank: int
    rows: int
    length: int
    answer: int


class Peer(NamedTuple):
    """The step beside another: `take(n)` does n of them, `steps` a round, `repeat` rounds."""

    take: Callable[[int], None]
    steps: int
    repeat: int


def without_torch() -> str | None:
    """Why PyTorch cannot be measured, if it cannot."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("peft") is None:
        return "not measured: no PyTorch and PEFT; pip install torch peft"
    return None


def measure_before(shape: TorchShape, steps: int) -> dict[str, Any] | str:
    """The step on the GPU or else the CPU; or why there is none.

    It runs in a process of its own, before JAX takes the GPU's memory: each framework has the whole card.
    """
    if why := without_torch():
        return why
    with _process() as pool:
        found = pool.submit(measure_torch, shape, steps).result()
    print(json.dumps(found), file=sys.stderr)
    return found


@contextlib.contextmanager
def steps_beside(shape: TorchShape, steps: int, repeat: int) -> Iterator[Peer]:
    """The step in a process that lives as long as the block, without checkpointing.

    Raises:
      ValueError: there is no PyTorch, or an accelerator, whose memory two frameworks would have to share.
    """
    if (why := without_torch()) or jax.default_backend() != "cpu":
        raise ValueError(why or f"--repeat on a {jax.default_backend()}: it is for CPUs; leave it out")
    with _process() as pool:
        yield Peer(lambda count: pool.submit(_take_steps, shape, count).result(), steps, repeat)


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _take_steps(shape: TorchShape, steps: int) -> None:
    step = _kept_step(shape)
    for _ in range(steps):
        step()


@functools.cache
def _kept_step(shape: TorchShape):
    return _make_step(shape, checkpointing=False)


def measure_torch(shape: TorchShape, steps: int) -> dict[str, Any]:
    """Times a step with random weights.

    Returns:
      `step_ms`, the median; `tokens_per_s`; on a GPU `gib` at the most, with checkpointing where it does not fit
      without.
    """
    import torch

    for checkpointing in (False, True):
        try:
            return _measure(shape, steps, checkpointing)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    return {"step_ms": f"does not fit at batch {shape.rows}"}


def _measure(shape: TorchShape, steps: int, checkpointing: bool) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.is_available()
    step = _make_step(shape, checkpointing)
    wait = torch.cuda.synchronize if gpu else lambda: None
    for _ in range(3):
        step()
    walls = []
    for _ in range(steps):
        wait()
        started = time.perf_counter()
        step()
        wait()
        walls.append(time.perf_counter() - started)
    wall = float(np.median(walls))
    found = {"step_ms": round(wall * 1e3, 3), "tokens_per_s": round(shape.rows * shape.length / wall)}
    if gpu:
        found |= {"gib": round(torch.cuda.max_memory_allocated() / GIB, 2), "checkpointing": checkpointing}
    return found | {"torch": torch.__version__}


def _make_step(shape: TorchShape, checkpointing: bool):
    import peft
    import torch
    import transformers

    sizes, gpu = shape.sizes, torch.cuda.is_available()
    device, dtype, dropout = ("cuda", torch.bfloat16, 0.05) if gpu else ("cpu", torch.float32, 0.0)
    config = transformers.LlamaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        attn_implementation="sdpa",
        dtype=dtype,
    )
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config)
    lora = peft.LoraConfig(
        r=shape.rank, lora_alpha=2 * shape.rank, lora_dropout=dropout, target_modules=list(LORA_TARGETS)
    )
    model = peft.get_peft_model(model, lora).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    tokens = torch.randint(0, sizes.vocab_size, (shape.rows, shape.length), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=tokens, logits_to_keep=shape.answer + 1, use_cache=False).logits[:, :-1].float()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, -shape.answer :].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
