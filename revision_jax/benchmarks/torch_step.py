"""A train step in PyTorch for comparison: transformers' Llama with PEFT's LoRA and AdamW.

On one GPU in bf16 with dropout, as users train there; on CPU in float32 without.
"""

import time
from typing import Any, NamedTuple

import numpy as np

from revision_jax.models.llama import LlamaConfig
from revision_jax.models.names import LORA_TARGETS
from revision_jax.units import GIB


class Rows(NamedTuple):
    """A batch: `rows` of `length` tokens; the loss is on the last `answer` of them."""

    rows: int
    length: int
    answer: int


def measure_torch(sizes: LlamaConfig, batch: Rows, rank: int, steps: int) -> dict[str, Any]:
    """Times a step with random weights.

    Returns:
      `step_ms`, the median; `tokens_per_s`; on a GPU `gib` at the most, with checkpointing where it does not fit
      without.
    """
    import torch

    for checkpointing in (False, True):
        try:
            return _measure(sizes, batch, rank, steps, checkpointing)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    return {"step_ms": f"does not fit at batch {batch.rows}"}


def _measure(sizes: LlamaConfig, batch: Rows, rank: int, steps: int, checkpointing: bool) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.is_available()
    step = _make_step(sizes, batch, rank, checkpointing)
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
    found = {"step_ms": round(wall * 1e3, 3), "tokens_per_s": round(batch.rows * batch.length / wall)}
    if gpu:
        found |= {"gib": round(torch.cuda.max_memory_allocated() / GIB, 2), "checkpointing": checkpointing}
    return found | {"torch": torch.__version__}


def _make_step(sizes: LlamaConfig, batch: Rows, rank: int, checkpointing: bool):
    import peft
    import torch
    import transformers

    gpu = torch.cuda.is_available()
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
    lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=list(LORA_TARGETS))
    model = peft.get_peft_model(model, lora).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    tokens = torch.randint(0, sizes.vocab_size, (batch.rows, batch.length), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=tokens, logits_to_keep=batch.answer + 1, use_cache=False).logits[:, :-1].float()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, -batch.answer :].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step
