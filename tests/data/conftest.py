"""A random CLIP directory, so that tests need none of the shipped parts."""

import json

import pytest
from flax import nnx
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from revision_jax.interop.clip import save_clip
from revision_jax.models.clip import CLIP, CLIPConfig, CLIPTextConfig, CLIPVisionConfig

WORDS = ("<s>", "</s>", "<unk>", ".", "a", "red", "blue", "circle", "moves", "left", "spins")


def make_clip_dir(directory, seed=0, image_size=32):
    """Writes a random CLIP of width 24 with a word-level tokenizer of 12 tokens a text."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_layers": 1, "num_heads": 2}
    config = CLIPConfig(
        vision=CLIPVisionConfig(**tower, image_size=image_size, patch_size=16),
        text=CLIPTextConfig(**tower, vocab_size=len(WORDS), max_position_embeddings=12, eos_token_id=1),
        projection_dim=24,
    )
    save_clip(CLIP(config, rngs=nnx.Rngs(seed)), directory)
    (directory / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3]})
    )
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory):
    return make_clip_dir(tmp_path_factory.mktemp("clip"))
