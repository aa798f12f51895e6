"""Names that configs, models and files share. Imports nothing, so that checking a config needs no JAX."""

ATTENTION_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_LINEARS = ("gate_proj", "up_proj", "down_proj")
LORA_TARGETS = ATTENTION_LINEARS + MLP_LINEARS  # linear layers of a Llama block that a LoRA can adapt
REMAT_POLICIES = ("none", "mlp", "names", "full")  # from nothing to everything computed again in the backward pass
ATTENTION_BACKENDS = ("auto", "xla", "cudnn", "splash")
PRECISIONS = ("default", "high", "highest")  # of float32 products: on GPUs TF32, TF32, float32; on TPUs 1, 3, 6 passes
LAYOUTS = ("visual_width", "llm_width", "clip_adapter")  # of the adapters: see models/visual.py
