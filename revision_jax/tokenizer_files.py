"""The tokenizer of a Hugging Face directory, read by transformers: its small files are checked, no code is run."""

import functools
import os
from pathlib import Path
from typing import Any

from revision_jax.known_keys import NAMES, OBJECT, TEXT, Kind, check_keys, check_kinds, or_null
from revision_jax.text import read_object

CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_TOKEN = or_null(Kind(lambda value: isinstance(value, str | dict), "a text or an object"))
_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "pad", "unk", "sep", "cls", "mask"))
_KINDS = dict.fromkeys(_TOKENS, _TOKEN) | {
    "tokenizer_class": or_null(TEXT),
    "added_tokens_decoder": or_null(OBJECT),
    "model_input_names": or_null(NAMES),
}
# What transformers itself reads or writes.
_KNOWN = (
    *_KINDS,
    *("add_bos_token", "add_eos_token", "add_prefix_space", "additional_special_tokens", "extra_special_tokens"),
    *("model_specific_special_tokens", "backend", "chat_template", "clean_up_tokenization_spaces", "errors"),
    *("do_lower_case", "from_slow", "is_local", "legacy", "local_files_only", "max_length", "model_max_length"),
    *("name_or_path", "_name_or_path", "pad_to_multiple_of", "pad_token_type_id", "padding_side", "padding"),
    *("processor_class", "response_schema", "sp_model_kwargs", "spaces_between_special_tokens"),
    *("special_tokens_map_file", "split_special_tokens", "stride", "tokenizer_file", "truncation", "truncation_side"),
    *("truncation_strategy", "transformers_version", "use_default_system_prompt", "use_fast", "vocab_size"),
)


def load_tokenizer(directory: str) -> Any:
    """The transformers tokenizer of a Hugging Face directory (cached: it is read-only).

    Raises:
      ValueError: a file that is no JSON or of another form; keys of tokenizer_config.json that are not known, such as
        `auto_map`, which names code; a tokenizer that cannot be had without running code.
    """
    check_tokenizer(directory)
    return _load(directory)


def check_tokenizer(directory: str | Path) -> None:
    """Reads the small files; the vocabulary itself is the library's."""
    for name in (SPECIAL, ADDED):
        if (Path(directory) / name).is_file():
            read_object(Path(directory) / name)
    path = Path(directory) / CONFIG
    if not path.is_file():
        return
    raw = read_object(path)
    check_kinds(path, raw, _KINDS)
    check_keys(path, raw, _KNOWN)


def _is_plain(directory: str) -> bool:
    """Whether all of a tokenizer stands in its tokenizer.json, so that no rules of a model are needed."""
    path = Path(directory) / CONFIG
    saved = path.is_file() and (Path(directory) / "tokenizer.json").is_file()
    return saved and read_object(path).get("tokenizer_class") == "TokenizersBackend"


@functools.cache
def _load(directory: str) -> Any:
    # Without PyTorch, transformers says when imported that it has no models; only its tokenizers are used here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # Slow to import; `--help` must be quick. AutoTokenizer imports all of PyTorch where it is installed.
    if _is_plain(directory):
        from transformers import PreTrainedTokenizerFast as Tokenizer
    else:
        from transformers import AutoTokenizer as Tokenizer
    try:
        return Tokenizer.from_pretrained(directory, trust_remote_code=False)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # the libraries raise whatever they meet in files, `Exception` itself too
        first = str(error).strip().partition("\n")[0][:300]
        raise ValueError(f"{directory}: its tokenizer cannot be read ({type(error).__name__}: {first})") from error
