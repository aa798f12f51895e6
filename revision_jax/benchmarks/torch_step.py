"""The plain step that people would write: transformers' Llama with PEFT's LoRA and AdamW, bf16, on one GPU."""

import time
from typing import Any

from revision_jax.models.llama import LlamaConfig
from revision_jax.models.names import LORA_TARGETS
from revision_jax.units import GIB


def measure_torch(sizes: LlamaConfig, batch: int, length: int, steps: int, *, answer: int) -> dict[str, Any]:
    """Times a step with random weights.

    Args:
      length: tokens of a row; the loss is on the last `answer` of them.
    Returns:
      `step_ms`, `tokens_per_s`, `gib` at the most; with checkpointing where it does not fit without.
    """
    import torch

    for checkpointing in (False, True):
        try:
            return _measure(sizes, batch, length, steps, answer, checkpointing)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    return {"step_ms": f"does not fit at batch {batch}"}


def _measure(sizes, batch, length, steps, answer, checkpointing) -> dict[str, Any]:
    import peft
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        attn_implementation="sdpa",
        dtype=torch.bfloat16,
    )
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    lora = peft.LoraConfig(r=64, lora_alpha=128, lora_dropout=0.05, target_modules=list(LORA_TARGETS))
    model = peft.get_peft_model(model, lora).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, fused=True)
    tokens = torch.randint(0, sizes.vocab_size, (batch, length), device="cuda")

    def step():
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=tokens, logits_to_keep=answer + 1, use_cache=False).logits[:, :-1].float()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, -answer:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for _ in range(3):
        step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    wall = (time.perf_counter() - started) / steps
    return {
        "step_ms": round(wall * 1e3, 3),
        "tokens_per_s": round(batch * length / wall),
        "gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "checkpointing": checkpointing,
        "torch": torch.__version__,
    }
