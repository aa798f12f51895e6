"""Tiny PyTorch models with wide random weights, as the files of others hold them; the same at every call."""

import peft
import torch
import transformers

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_llama(seed: int = 0, **changes) -> transformers.LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "rms_norm_eps": 1e-5} | SIZES | changes
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).eval()


def lora_of(model, rank: int = 3, alpha: int = 6, targets=LINEARS, seed: int = 1, **kind) -> peft.PeftModel:
    """A LoRA whose B is not zero; `kind` are further fields of PEFT's config."""
    torch.manual_seed(seed)
    kind = {"target_modules": list(targets), "task_type": "CAUSAL_LM"} | kind
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, **kind)
    adapted = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return adapted.eval()


def unified_tensors(width: int, mlp: int, hidden: int) -> dict[str, torch.Tensor]:
    """Variant U's state dict under its published names."""
    generator = torch.Generator().manual_seed(4)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    return {f"cross_attn.{key}": value for key, value in sparse_tensors(hidden, mlp, None).items()} | {
        "cross_attn.text_mm_projector.weight": draw(hidden, width),
        "cross_attn.text_mm_projector.bias": draw(hidden),
        "alternate_layer_norm.weight": draw(hidden),
        "alternate_layer_norm.bias": draw(hidden),
    }


def sparse_tensors(width: int, mlp: int, hidden: int | None, layers: int = 2) -> dict[str, torch.Tensor]:
    """The sparse adapter's state dict under its published names; without a projection where `hidden` is None."""
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: 0.2 * torch.randn(*shape, generator=generator)
    tensors = {"global_rep_token": draw(width), "global_rep_pos": draw(width)}
    for stack in ("t2v_encoder", "encoder"):
        for i in range(layers):
            name = f"{stack}.layers.{i}"
            shapes = {
                "self_attn.in_proj_weight": (3 * width, width),
                "self_attn.in_proj_bias": (3 * width,),
                "self_attn.out_proj.weight": (width, width),
                "self_attn.out_proj.bias": (width,),
                "linear1.weight": (mlp, width),
                "linear1.bias": (mlp,),
                "linear2.weight": (width, mlp),
                "linear2.bias": (width,),
                "norm1.weight": (width,),
                "norm1.bias": (width,),
                "norm2.weight": (width,),
                "norm2.bias": (width,),
            }
            tensors |= {f"{name}.{key}": draw(*shape) for key, shape in shapes.items()}
    if hidden is not None:
        tensors |= {"mm_projector.weight": draw(hidden, width), "mm_projector.bias": draw(hidden)}
    return tensors
