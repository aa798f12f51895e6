"""CLIP against transformers' PyTorch module on tiny random weights, every layer of both towers."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from revision_jax.interop.clip import load_clip, read_clip_config, save_clip
from revision_jax.interop.table import TableError

pytestmark = pytest.mark.parity
TOLERANCE = 1e-4  # two float32 programs sum in different orders; relative to the largest value


def hf_clip(hidden_act="quick_gelu", eos_token_id=3):
    torch.manual_seed(0)
    tower = {"intermediate_size": 48, "num_attention_heads": 4, "hidden_act": hidden_act}
    config = transformers.CLIPConfig(
        vision_config={**tower, "hidden_size": 32, "num_hidden_layers": 3, "image_size": 24, "patch_size": 8},
        text_config={
            **tower,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "vocab_size": 50,
            "max_position_embeddings": 12,
            "bos_token_id": 1,
            "eos_token_id": eos_token_id,
            "pad_token_id": 0,
        },
        projection_dim=20,
    )
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():  # norms start as the identity and biases at zero: a swapped pair would not show
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def close(found, wanted):
    wanted = wanted.detach().numpy()
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE * max(1, np.abs(wanted).max()))


@pytest.mark.parametrize("hidden_act, eos_token_id", [("quick_gelu", 3), ("gelu", 2)])
def test_every_layer_equals_transformers_and_the_round_trip_is_exact(hidden_act, eos_token_id, tmp_path):
    hf = hf_clip(hidden_act, eos_token_id)
    hf.save_pretrained(tmp_path / "theirs")
    model = load_clip(tmp_path / "theirs")

    rng = np.random.default_rng(0)
    pixels = rng.standard_normal((2, 24, 24, 3), np.float32)
    # The end stands at different places; eos id 2 means "the largest id" (49 here), for historic configs.
    end = 49 if eos_token_id == 2 else eos_token_id
    tokens = np.array([[1, 9, 8, 7, end, 0, 0], [1, 5, end, 0, 0, 0, 0]])
    images = torch.tensor(pixels.transpose(0, 3, 1, 2))
    with torch.no_grad():
        vision = hf.vision_model(images, output_hidden_states=True)
        text = hf.text_model(torch.tensor(tokens), output_hidden_states=True)
        both = hf(input_ids=torch.tensor(tokens), pixel_values=images)
    vision_states, text_states, image, (features, holistic) = jax.jit(
        lambda pixels, tokens: (
            model.vision.hidden_states(pixels),
            model.text.hidden_states(tokens),
            model.encode_image(pixels),
            model.encode_text(tokens),
        )
    )(pixels, tokens)

    assert len(vision_states) == len(vision.hidden_states) == 4
    assert len(text_states) == len(text.hidden_states) == 3
    for found, wanted in zip((*vision_states, *text_states), (*vision.hidden_states, *text.hidden_states)):
        close(found, wanted)
    close(features, text.last_hidden_state)
    close(image, hf.visual_projection(vision.pooler_output))
    close(holistic, hf.text_projection(text.pooler_output))
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    close(unit(image), both.image_embeds)
    close(unit(holistic) @ unit(image).T * np.exp(model.logit_scale[...]), both.logits_per_text)

    save_clip(model, tmp_path / "ours")
    theirs, ours = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert sorted(ours) == sorted(theirs)
    for key in theirs:
        np.testing.assert_array_equal(ours[key], theirs[key])
    again, info = transformers.CLIPModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        out = again(input_ids=torch.tensor(tokens), pixel_values=images)
    assert torch.equal(out.logits_per_text, both.logits_per_text)
    assert read_clip_config(tmp_path / "ours") == model.config


def test_all_disagreements_are_listed_at_once(tmp_path):
    hf_clip().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["vision_model.embeddings.position_ids"] = np.arange(10)  # a buffer of old files: ignored
    save_file(tensors, path)
    load_clip(tmp_path)

    del tensors["text_projection.weight"]
    tensors["head.weight"] = np.zeros(3, np.float32)
    tensors["logit_scale"] = np.zeros(2, np.float32)
    tensors["text_model.encoder.layers.2.mlp.fc1.bias"] = np.zeros(48, np.float32)
    save_file(tensors, path)
    with pytest.raises(TableError, match="4 disagreements") as error:
        load_clip(tmp_path)
    for part in (
        "unfilled: text_projection/kernel needs text_projection.weight",
        "unmapped: head.weight",
        "misshapen: logit_scale is (2,)",
        "unmapped: text_model.encoder.layers.2.mlp.fc1.bias is beyond text/layers/mlp/fc1/bias",
    ):
        assert part in str(error.value)


def test_the_config_of_vit_l_14_is_read(tmp_path):
    """As published: most keys are left to Hugging Face's defaults."""
    published = {
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "eos_token_id": 2,
        },
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "patch_size": 14,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(published))
    config = read_clip_config(tmp_path)
    assert (config.vision.image_size, config.vision.hidden_act, config.vision.layer_norm_eps) == (
        224,
        "quick_gelu",
        1e-5,
    )
    assert (config.text.vocab_size, config.text.max_position_embeddings, config.text.eos_token_id) == (
        49408,
        77,
        2,
    )


def test_the_towers_of_older_files_are_those_of_transformers(tmp_path):
    """With `vision_config_dict`, `vision_config` has no say, not even in what the former leaves out."""
    vision = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3}
    older = {
        "model_type": "clip",
        "vision_config": {"hidden_size": 64, "image_size": 24},
        "vision_config_dict": vision,
        "text_config": {"hidden_size": 16, "num_attention_heads": 2},
        "text_config_dict": None,
    }
    (tmp_path / "config.json").write_text(json.dumps(older))
    config, theirs = read_clip_config(tmp_path), transformers.CLIPConfig.from_pretrained(tmp_path)
    for found, wanted in ((config.vision, theirs.vision_config), (config.text, theirs.text_config)):
        assert found.hidden_size == wanted.hidden_size in (32, 16)
        assert found.num_layers == wanted.num_hidden_layers
        assert found.intermediate_size == wanted.intermediate_size
    assert config.vision.image_size == theirs.vision_config.image_size == 224


def test_pictures_prepared_otherwise_are_refused_when_weights_load(tmp_path):
    hf_clip().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False}))
    with pytest.raises(ValueError, match="do_normalize is False; expected true"):
        load_clip(tmp_path)
