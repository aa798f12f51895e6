"""The pretrained parts that a config names (`base.*`): found or told how to make, sized, hashed, opened.

Where a config names no file, the published sizes stand in, for compiling ahead: Vicuna-7B v1.5 and CLIP ViT-L/14
(arXiv 2411.14901).
"""

import weakref
from collections.abc import Sequence
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from revision_jax.config import ConfigError, resolve_path
from revision_jax.data.video.extraction import Extractor
from revision_jax.fingerprints import fingerprint
from revision_jax.hierarchy import Hierarchy
from revision_jax.interop import clip
from revision_jax.interop.encoder import EncoderKind
from revision_jax.interop.encoders import encoder_kind
from revision_jax.interop.llama import read_llama_config
from revision_jax.models.clip import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from revision_jax.models.encoder import EncoderConfig
from revision_jax.models.llama import LlamaConfig
from revision_jax.prompts import PromptEncoder, PromptTemplate
from revision_jax.tokenizer_files import load_tokenizer

HOW_TO_MAKE = {
    "llm": "a Hugging Face directory of Vicuna-7B v1.5 (config.json, tokenizer, *.safetensors or *.bin): download "
    "lmsys/vicuna-7b-v1.5, or another model of the families in docs/recipes.md",
    "encoder": "a Hugging Face directory of CLIP ViT-L/14 (config.json, tokenizer, *.safetensors or *.bin): download "
    "openai/clip-vit-large-patch14, or convert OpenAI's ViT-L-14.pt; or of a SigLIP (docs/recipes.md)",
    "projector": "the dense projector, `weight [4096, 768]` and `bias [4096]` in a .safetensors or .bin: "
    "VTimeLLM's mm_projector.bin of its first stage",
}
VICUNA_7B = LlamaConfig(32000, 4096, 11008, num_layers=32, num_heads=32, num_kv_heads=32, head_dim=128)
CLIP_L14 = CLIPConfig(
    CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_layers=24, num_heads=16, image_size=224, patch_size=14
    ),
    CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_layers=12, num_heads=12, vocab_size=49408),
    projection_dim=768,
)


def missing_base(config: ConfigDict, drawn: Sequence[str] = ()) -> list[str]:
    """A line for every pretrained part that is missing, with how it is made.

    Args:
      drawn: parts that start at random where no file is given (`Stage.draws`).
    """
    missing = []
    for role, path in config.base.items():
        if not path and role in drawn:
            continue
        if not path or not resolve_path(path).exists():
            found = f"no file at {resolve_path(path)}" if path else "not given"
            missing.append(f"base.{role}: {found}; expected {HOW_TO_MAKE[role]}")
    return missing


def report_missing(missing: Sequence[str]) -> None:
    """Raises ConfigError that lists what is missing, if anything is."""
    if missing:
        listed = "\n".join(f"  {line}" for line in missing)
        raise ConfigError(f"files are missing; make them, or give each as --config.KEY=PATH:\n{listed}")


def base_fingerprints(config: ConfigDict) -> dict[str, dict[str, str]]:
    """Role -> path and content hash of each pretrained part that is given."""
    given = {role: path for role, path in config.base.items() if path}
    return {role: {"path": path, "sha256": fingerprint(resolve_path(path))} for role, path in given.items()}


def llama_config(config: ConfigDict) -> LlamaConfig:
    """Sizes of `base.llm`, or of the published LLM."""
    return read_llama_config(resolve_path(config.base.llm)) if config.base.llm else VICUNA_7B


def encoder_of(config: ConfigDict) -> tuple[EncoderKind, EncoderConfig]:
    """The kind and the sizes of `base.encoder`, or of the published CLIP."""
    if not config.base.encoder:
        return clip.KIND, CLIP_L14
    directory = resolve_path(config.base.encoder)
    kind = encoder_kind(directory)
    return kind, kind.read_config(directory)


def make_hierarchy(config: ConfigDict) -> Hierarchy:
    """The windows of a config."""
    return Hierarchy(**config.hierarchy)


def make_prompts(config: ConfigDict) -> PromptEncoder:
    """The prompt in the tokens of `base.llm`'s tokenizer.

    Raises:
      ConfigError: there is no LLM, or its tokenizer has tokens without an embedding.
    """
    report_missing([line for line in missing_base(config) if line.startswith("base.llm")])
    directory = resolve_path(config.base.llm)
    prompts = PromptEncoder(
        load_tokenizer(str(directory)), PromptTemplate(config.prompt.system), config.prompt.max_text_tokens
    )
    _check_special_tokens(prompts, read_llama_config(directory).vocab_size, directory)
    return prompts


def _check_special_tokens(prompts: PromptEncoder, embeddings: int, directory: Path) -> None:
    """Raises ConfigError where a token of every prompt has no embedding: it would be NaN, and spread."""
    ids = {"BOS": prompts.bos_id, "EOS": prompts.eos_id, "padding": prompts.pad_id}
    outside = [f"{name} {token}" for name, token in ids.items() if token is not None and not 0 <= token < embeddings]
    if outside:
        raise ConfigError(
            f"{directory}: the tokenizer's {', '.join(outside)} lies outside the model's {embeddings} embeddings; "
            "use the tokenizer that belongs to these weights, or name a token that they have in tokenizer_config.json"
        )


_text_extractors: "weakref.WeakValueDictionary[tuple, Extractor]" = weakref.WeakValueDictionary()


def make_extractor(config: ConfigDict, mesh: Mesh | None = None) -> Extractor:
    """`base.encoder` at the data's frame rate: what made the features also reads a user's own video.

    Raises:
      ConfigError: there is no encoder.
    """
    report_missing([line for line in missing_base(config) if line.startswith("base.encoder")])
    return Extractor(resolve_path(config.base.encoder), config.data.fps, mesh=mesh)


def make_text_extractor(config: ConfigDict) -> Extractor:
    """As `make_extractor`, for sentences alone; on one device, so that it may be used beside a training step.

    Those who hold one of the same encoder share it.
    """
    key = str(config.base.encoder), config.data.fps
    extractor = _text_extractors.get(key)
    if extractor is None:
        extractor = make_extractor(config)
        extractor.forget_pictures()
        _text_extractors[key] = extractor
    return extractor
