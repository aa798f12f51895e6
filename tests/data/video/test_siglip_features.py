"""SigLIP's pictures and sentences: those of transformers' processor and tokenizer, in the extractor."""

import json
import shutil

import numpy as np
import pytest
import transformers
from tiny_siglip import IMAGES, LENGTH, SIZE, TOKENIZER, make_siglip

from revision_jax.data.video.extraction import Extractor, identify
from revision_jax.data.video.scaling import Scaler, Square
from revision_jax.interop import texts
from revision_jax.interop.encoder import TextRules
from revision_jax.interop.texts import Texts
from revision_jax.parallel.programs import forget

SENTENCES = [
    "A red Circle moves left.",
    "a blue circle",
    "the red square is growing and growing and growing and growing",
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return make_siglip(tmp_path_factory.mktemp("siglip") / "tiny")


@pytest.fixture(scope="module")
def extractor(directory):
    forget()
    return Extractor(directory, fps=2.0, batch=8)


@pytest.fixture(scope="module")
def theirs(torch, directory):
    return transformers.SiglipModel.from_pretrained(directory).eval()


def test_pictures_are_those_of_the_processor(torch, extractor, theirs):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (9, SIZE, SIZE, 3), np.uint8)
    process = transformers.SiglipImageProcessorPil(**IMAGES)
    with torch.no_grad():
        pixels = torch.tensor(np.stack(process(list(frames))["pixel_values"]))
        expected = theirs.vision_model(pixels).pooler_output.numpy()
    found = extractor.encode_frames([frames])
    assert found.dtype == np.float16 and found.shape == (9, 16)
    np.testing.assert_allclose(found, expected, atol=2e-3, rtol=2e-3)  # float16's own rounding


@pytest.mark.parametrize("resample, name", [(2, "bilinear"), (3, "bicubic")])
def test_a_wide_picture_is_squeezed_and_not_cropped(resample, name):
    y, x = np.mgrid[0:96, 0:160]
    picture = np.stack([x, 2 * y, 128 + 60 * np.sin(x / 9) * np.cos(y / 7)], -1).astype(np.uint8)
    process = transformers.SiglipImageProcessorPil(
        **IMAGES | {"resample": resample, "do_normalize": False, "do_rescale": False}
    )
    expected = np.asarray(process([picture])["pixel_values"][0]).transpose(1, 2, 0)
    found = Scaler(Square(SIZE, crop=False, filter=name)).array(picture[None])[0].astype(float)
    assert np.abs(found - expected).mean() < 1.0 and np.abs(found - expected).max() < 8  # of 255: two programs' filters
    other = Scaler(Square(SIZE, filter=name)).array(picture[None])[0]
    assert found[:, 0, 0].mean() < 6 and other[:, 0, 0].mean() > 30  # the left edge is seen


def test_sentences_are_those_of_the_tokenizer(torch, directory, extractor, theirs):
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert type(tokenizer).__name__ == "GemmaTokenizer"
    inputs = tokenizer(
        [sentence.strip(".").lower() + "." for sentence in SENTENCES],
        padding="max_length",
        max_length=LENGTH,
        truncation=True,
        return_tensors="pt",
    )
    assert list(inputs) == ["input_ids"] and (inputs["input_ids"][2] != 0).all()  # the last is cut
    with torch.no_grad():
        output = theirs.text_model(**inputs)
    np.testing.assert_allclose(extractor.encode_queries(SENTENCES), output.pooler_output.numpy(), atol=1e-4)
    features, mask = extractor.encode_query_tokens(SENTENCES)
    lengths = (inputs["input_ids"] != 0).sum(1).numpy() - 1  # without the end token
    assert features.shape == (3, LENGTH - 1, 16) and mask.sum(1).tolist() == lengths.tolist()
    for number, length in enumerate(lengths):
        expected = output.last_hidden_state[number, :length].numpy()
        np.testing.assert_allclose(features[number, :length], expected, atol=1e-4)
        assert not features[number, length:].any()
    assert extractor.compile_count == 2


@pytest.mark.parametrize(
    "change, told",
    [
        ({"model_input_names": ["input_ids", "attention_mask"]}, r"model_input_names .*expected \['input_ids'\]"),
        ({"padding_side": "left"}, "padding_side 'left'; expected 'right'"),
        ({"pad_token": None}, "no padding token"),
    ],
)
def test_a_tokenizer_that_would_give_other_features_is_refused(directory, tmp_path, change, told):
    other = shutil.copytree(directory, tmp_path / "other")
    raw = {key: value for key, value in (TOKENIZER | change).items() if value is not None}
    raw["tokenizer_class"] = "PreTrainedTokenizerFast"  # Gemma's has a padding token of its own
    (other / "tokenizer_config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=told):
        Texts(other, TextRules(starts=0, full=True), LENGTH)(["a red circle"])


def test_a_tokenizer_that_needs_another_library_says_so(directory, monkeypatch):
    def missing(_):
        raise ImportError("\nSiglipTokenizer requires the SentencePiece library")

    monkeypatch.setattr(texts, "load_tokenizer", missing)
    with pytest.raises(ValueError, match=r"requires the SentencePiece.*pip install sentencepiece protobuf"):
        Texts(directory, TextRules(starts=0, full=True), LENGTH)(["a red circle"])


def test_the_fingerprint_follows_how_pictures_are_made(directory, extractor, tmp_path):
    known = identify(directory, 2.0)
    assert (known.name, known.fingerprint, known.width) == (extractor.name, extractor.fingerprint, 16)
    other = shutil.copytree(directory, tmp_path / "other")
    (other / "preprocessor_config.json").write_text(json.dumps(IMAGES | {"resample": 3}))
    assert identify(other, 2.0).fingerprint != known.fingerprint
    (other / "preprocessor_config.json").write_text(json.dumps(IMAGES | {"size": {"height": SIZE, "width": 40}}))
    with pytest.raises(ValueError, match=r"size is .*expected {'height': 32, 'width': 32}"):
        identify(other, 2.0)
