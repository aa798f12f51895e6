"""A random CLIP directory and small feature stores: tests need none of the shipped parts."""

import json
import types

import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from revision_jax.data.annotations.queries import check_queries
from revision_jax.data.builders.base import FeatureBuilder
from revision_jax.data.video.extraction import VideoFeatures
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
def clip_factory():
    """(directory, seed, image_size) -> directory of a random CLIP."""
    return make_clip_dir


@pytest.fixture(scope="session")
def clip_dir(tmp_path_factory):
    return make_clip_dir(tmp_path_factory.mktemp("clip"))


class ArrayBuilder(FeatureBuilder, skip_registration=True):
    """A data set of given arrays: video id -> features [N, D] float16."""

    def __init__(self, directory, arrays, extractor, queries=()):
        self.arrays, self._queries, self.made = arrays, list(queries), []
        super().__init__(directory, "train", extractor)

    def video_ids(self):
        return list(self.arrays)

    def extract(self, video_ids):
        for video_id in video_ids:
            self.made.append(video_id)
            features = self.arrays[video_id]
            if features is None:
                raise RuntimeError("killed")
            yield video_id, VideoFeatures(features, len(features) / self.encoder.fps, self.encoder.fps)

    def annotate(self, durations):
        return check_queries(self._queries, durations), []

    def source(self):
        return {"videos": {video_id: "array" for video_id in self.arrays}}


def fake_extractor(width=8, fps=2.0, fingerprint="0" * 64):
    return types.SimpleNamespace(width=width, fps=fps, fingerprint=fingerprint, name="fake")


def make_arrays(lengths, width=8, seed=0):
    rng = np.random.default_rng(seed)
    return {f"v{i}": rng.normal(size=(n, width)).astype(np.float16) for i, n in enumerate(lengths)}


@pytest.fixture(scope="session")
def make_store():
    """directory, lengths in frames -> (data set directory, arrays)."""

    def make(directory, lengths=(200, 64, 33), width=8, fps=2.0, queries=()):
        arrays = make_arrays(lengths, width)
        ArrayBuilder(directory, arrays, fake_extractor(width, fps), queries).prepare()
        return directory, arrays

    return make


@pytest.fixture(scope="session")
def builder_parts():
    """The pieces of a builder's test: (ArrayBuilder, fake_extractor, make_arrays)."""
    return ArrayBuilder, fake_extractor, make_arrays
