"""SigLIP against transformers' PyTorch module on tiny random weights, every layer of both towers and the pooling."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from revision_jax.interop import siglip
from revision_jax.interop.encoder import load, save
from revision_jax.interop.encoders import encoder_kind, read_encoder_config

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4  # two float32 programs sum in different orders; relative to the largest value
# The second is SigLIP 2's giant: a text tower that is narrower than the pictures', and a projection between them.
# Patches do not fill the picture, as in so400m-patch14-384.
SHAPES = {"alike": (32, 3, None), "projected": (16, 2, 32)}


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def hf(request, tmp_path_factory):
    """(directory, transformers' model)."""
    width, layers, projection = SHAPES[request.param]
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 3}
    text = {"hidden_size": width, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": layers}
    config = transformers.SiglipConfig(
        vision_config={**vision, "image_size": 26, "patch_size": 8},
        text_config={**text, "vocab_size": 50, "max_position_embeddings": 7, "projection_size": projection},
    )
    model = transformers.SiglipModel(config).eval()
    with torch.no_grad():  # norms start as the identity, biases, scale and bias at zero: a swapped pair would not show
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("siglip")
    model.save_pretrained(folder)
    return folder, model


def close(found, wanted):
    wanted = wanted.detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE * max(1, np.abs(wanted).max()))


def test_every_layer_equals_transformers(hf):
    folder, theirs = hf
    model = load(siglip.KIND, folder)
    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((2, 26, 26, 3), np.float32)
    tokens = np.array([[9, 8, 7, 1, 0, 0, 0], [5, 1, 0, 0, 0, 0, 0]])  # the end token, then padding
    images = torch.tensor(pixels.transpose(0, 3, 1, 2))
    with torch.no_grad():
        vision = theirs.vision_model(images, output_hidden_states=True)
        text = theirs.text_model(torch.tensor(tokens), output_hidden_states=True)
        both = theirs(input_ids=torch.tensor(tokens), pixel_values=images)

    @jax.jit
    def run(pixels, tokens):
        image, (features, sentence) = model.encode_image(pixels), model.encode_text(tokens)
        states = model.vision.hidden_states(pixels), model.text.hidden_states(tokens)
        return states, model.vision.tokens(pixels), features, image, sentence, model.logits(image, sentence)

    (vision_states, text_states), patches, features, image, sentence, logits = run(pixels, tokens)
    assert len(vision_states) == len(vision.hidden_states) == 4
    assert len(text_states) == len(text.hidden_states)
    for found, wanted in zip((*vision_states, *text_states), (*vision.hidden_states, *text.hidden_states)):
        close(found, wanted)
    close(patches, vision.last_hidden_state)
    close(features, text.last_hidden_state)
    close(image, vision.pooler_output)
    close(sentence, text.pooler_output)
    close(logits, both.logits_per_text)
    padded = model.encode_text(np.pad(tokens[:, :4], ((0, 0), (0, 3))))  # what is padding is seen, too
    shorter = model.encode_text(tokens[:, :4])
    assert np.abs(np.asarray(padded[1] - shorter[1])).max() > 0.01
    config = read_encoder_config(folder)
    assert (
        (config.feature_width, config.token_width)
        == (32, features.shape[-1])
        == (image.shape[-1], text_states.shape[-1])
    )


def test_the_round_trip_is_exact(hf, tmp_path):
    folder, theirs = hf
    model = load(siglip.KIND, folder)
    save(siglip.KIND, model, tmp_path)
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path))
    assert sorted(before) == sorted(after)
    for key in before:
        np.testing.assert_array_equal(before[key], after[key])
    again, info = transformers.SiglipModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert again.config.text_config.projection_size == theirs.config.text_config.projection_size
    assert read_encoder_config(tmp_path) == model.config


# As published: google/siglip-base-patch16-224, google/siglip-so400m-patch14-384, google/siglip2-base-patch16-224.
PUBLISHED = {
    "base": ({}, {}, (768, 768, 12, 64)),
    "so400m": (
        {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27,
         "image_size": 384, "patch_size": 14, "model_type": "siglip_vision_model"},
        {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16, "num_hidden_layers": 27,
         "model_type": "siglip_text_model"},
        (1152, 1152, 27, 64),
    ),
    "siglip2": ({}, {"vocab_size": 256000, "projection_size": 768}, (768, 768, 12, 64)),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_leave_out_what_are_transformers_defaults(name, tmp_path):
    vision, text, expected = PUBLISHED[name]
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "siglip", "vision_config": vision, "text_config": text})
    )
    config, theirs = read_encoder_config(tmp_path), transformers.SiglipConfig.from_pretrained(tmp_path)
    found = (config.feature_width, config.token_width, config.vision.num_layers, config.text.max_position_embeddings)
    assert found == expected
    for ours, wanted in ((config.vision, theirs.vision_config), (config.text, theirs.text_config)):
        assert ours.hidden_act == wanted.hidden_act and ours.layer_norm_eps == wanted.layer_norm_eps
        assert (ours.hidden_size, ours.intermediate_size) == (wanted.hidden_size, wanted.intermediate_size)
        assert (ours.num_layers, ours.num_heads) == (wanted.num_hidden_layers, wanted.num_attention_heads)
    assert (config.vision.image_size, config.vision.patch_size) == (
        theirs.vision_config.image_size,
        theirs.vision_config.patch_size,
    )


@pytest.mark.parametrize(
    "raw, told",
    [
        ({"model_type": "siglip2"}, r"model_type is 'siglip2'.*NaFlex.*google/siglip2-base-patch16-224"),
        ({"model_type": "siglip_vision_model"}, r"one tower of a model.*\(siglip\)"),
        ({"model_type": "blip"}, r"model_type is 'blip'; expected an encoder, 'clip' or 'siglip'$"),
        ({"model_type": "siglip", "vision_config": {"vision_use_head": False}}, r"use_head is .*expected true"),
        ({"model_type": "siglip", "vision_config": {"hidden_act": "relu"}}, r"hidden_act is 'relu'; expected one of"),
        ({"model_type": "siglip", "text_config": {"projection_size": 512}}, r"width 512 .*pictures of 768"),
    ],
)  # fmt: skip
def test_other_models_are_refused_by_name(raw, told, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=told):
        read_encoder_config(tmp_path)
    with pytest.raises(FileNotFoundError, match="expected a Hugging Face directory of 'clip' or 'siglip'"):
        encoder_kind(tmp_path / "none")
