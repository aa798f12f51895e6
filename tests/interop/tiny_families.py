"""Tiny random models of every family, as transformers makes and saves them."""

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from revision_jax.pretrain.tokenizer import corpus

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Name -> transformers' classes and what its config has beside SIZES.
FAMILIES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {}),
    "llama, biases": (
        transformers.LlamaConfig,
        transformers.LlamaForCausalLM,
        {"attention_bias": True, "mlp_bias": True, "head_dim": 16, "num_key_value_heads": 1},
    ),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, {"sliding_window": 40}),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {"head_dim": 12, "tie_word_embeddings": True}),
    "qwen3, biases": (
        transformers.Qwen3Config,
        transformers.Qwen3ForCausalLM,
        {"head_dim": 16, "attention_bias": True},
    ),
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 5e5},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": YARN,
    "yarn, mscale": YARN | {"mscale": 2.0, "mscale_all_dim": 0.7, "truncate": False, "beta_fast": 4, "beta_slow": 0.5},
    "yarn, factor": YARN | {"attention_factor": 1.7, "beta_fast": 8},
}


def tiny_family(family: str, rope: str = "default", seed: int = 0, **changes) -> transformers.PreTrainedModel:
    """A model of `FAMILIES` with a kind of `ROPES`. Weights are drawn wide (std 0.2), norms about 1 and biases too: a
    wrong operation, or one left out, shows."""
    make_config, make_model, special = FAMILIES[family]
    torch.manual_seed(seed)
    parameters = {"rope_theta": 1e4, **ROPES[rope]}
    model = make_model(make_config(**SIZES | special | changes, rope_parameters=parameters)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model


def qwen_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Of the kind of Qwen's: byte-level merges, digits one by one, no BOS, padding that is no part of a text."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
