"""Keys of models' config.json: what each that is read may hold, and those that change nothing here."""

from collections.abc import Collection

from revision_jax.known_keys import BOOLEAN, OBJECT, POSITIVE, TEXT, WHOLE, Kind, or_null

_ZERO = Kind(lambda value: value in (None, 0), "0: nothing drops out here")
_ONE = Kind(lambda value: value in (None, 1), "1")
_NOT = Kind(lambda value: value in (None, False), "false")
_NONE = Kind(lambda value: not value, "none of them")
_ABSENT = {  # of every model: read only to be refused
    **dict.fromkeys(("is_encoder_decoder", "add_cross_attention"), _NOT),
    "pruned_heads": _NONE,
}
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_LLM_KINDS = dict.fromkeys(_SIZES, WHOLE) | {
    "model_type": TEXT,
    "hidden_act": TEXT,
    "num_key_value_heads": or_null(WHOLE),
    "head_dim": or_null(WHOLE),
    "max_position_embeddings": WHOLE,
    "rms_norm_eps": POSITIVE,
    "rope_theta": POSITIVE,
    "rope_scaling": or_null(OBJECT),
    "rope_parameters": or_null(OBJECT),
    "original_max_position_embeddings": or_null(WHOLE),
    "tie_word_embeddings": BOOLEAN,
    "attention_bias": BOOLEAN,
    "mlp_bias": BOOLEAN,
    "use_sliding_window": BOOLEAN,
    "sliding_window": or_null(WHOLE),
    "max_window_layers": Kind(lambda value: type(value) is int and value >= 0, "a whole number of at least 0"),
    "layer_types": or_null(Kind(lambda value: isinstance(value, list), "a list")),
    "attention_dropout": _ZERO,
    "partial_rotary_factor": _ONE,
    "rope_interleaved": _NOT,
}
# Of every model that transformers writes: names, outputs, the way of generating.
_ALL = (
    *("architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "name_or_path"),
    *("_attn_implementation_autoset", "_commit_hash", "use_cache", "is_decoder", "tokenizer_class", "prefix"),
    *("initializer_range", "initializer_factor", "return_dict", "output_hidden_states", "output_attentions"),
    *("torchscript", "use_bfloat16", "tf_legacy_loss", "chunk_size_feed_forward", "tie_encoder_decoder"),
    *("finetuning_task", "id2label", "label2id", "num_labels", "problem_type", "task_specific_params"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id", "decoder_start_token_id"),
    *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "temperature"),
    *("diversity_penalty", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences"),
    *("output_scores", "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id"),
    *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
)
# `pretraining_tp` splits products, whose sums are the same.
LLM_HARMLESS = (*_ALL, "pretraining_tp", "max_sequence_length", "is_llama_config", "transformers.js_config")


def llm_kinds(read: Collection[str]) -> dict[str, Kind]:
    """Key -> what it may hold, of a family of LLMs that reads the keys `read`; what it does not read must say no."""
    refused = {key: _NOT for key in ("attention_bias", "mlp_bias", "use_sliding_window") if key not in read}
    guards = {
        key: _LLM_KINDS[key] for key in ("model_type", "attention_dropout", "partial_rotary_factor", "rope_interleaved")
    }
    return {key: _LLM_KINDS[key] for key in read} | guards | _ABSENT | refused


_TOWER_KINDS = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), WHOLE),
    "hidden_act": TEXT,
    "layer_norm_eps": POSITIVE,
    **dict.fromkeys(("attention_dropout", "dropout"), _ZERO),
    **_ABSENT,
}
VISION_KINDS = _TOWER_KINDS | {
    "image_size": WHOLE,
    "patch_size": WHOLE,
    "num_channels": Kind(lambda value: value == 3, "3"),
}
TEXT_KINDS = _TOWER_KINDS | {
    "vocab_size": WHOLE,
    "max_position_embeddings": WHOLE,
    "eos_token_id": Kind(lambda value: type(value) is int and value >= 0, "one token id"),
}
TOWER_HARMLESS = (*_ALL, "projection_dim")  # the model's own counts
CLIP_KINDS = {
    "projection_dim": WHOLE,
    **dict.fromkeys(("vision_config", "text_config", "vision_config_dict", "text_config_dict"), or_null(OBJECT)),
    **_ABSENT,
}
CLIP_HARMLESS = (*_ALL, "logit_scale_init_value", "tie_word_embeddings")
SIGLIP_KINDS = {**dict.fromkeys(("vision_config", "text_config"), or_null(OBJECT)), **_ABSENT}
SIGLIP_VISION_KINDS = VISION_KINDS | {"vision_use_head": Kind(lambda value: value is True, "true")}
SIGLIP_TEXT_KINDS = {key: kind for key, kind in TEXT_KINDS.items() if key != "eos_token_id"} | {
    "projection_size": or_null(WHOLE)
}
