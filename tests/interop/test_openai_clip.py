"""OpenAI's files: a TorchScript archive is read without running it, and computes what the module in it computes."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from revision_jax.interop.clip import load_clip
from revision_jax.interop.files import read_tensors
from revision_jax.interop.openai_clip import openai_clip_config, openai_to_hugging_face
from revision_jax.interop.torchscript import read_torchscript
from revision_jax.runs.converting import convert

pytestmark = pytest.mark.parity
SIZE, PATCH, TEXT, VOCABULARY, LENGTH, COMMON = 24, 8, 64, 30, 10, 12


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 2 * width))
        self.mlp.add_module("c_proj", nn.Linear(2 * width, width))

    def forward(self, x, mask):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        h = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(h * torch.sigmoid(1.702 * h))


class Blocks(nn.Module):
    def __init__(self, width, layers):
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width) for _ in range(layers)))

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((SIZE // PATCH) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Blocks(width, 2)
        self.proj = nn.Parameter(torch.randn(width, COMMON))

    def forward(self, images):
        x = self.conv1(images).flatten(2).permute(0, 2, 1)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x).permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0]) @ self.proj


class OpenAIClip(nn.Module):
    """Names and layout as OpenAI's; written for this test."""

    def __init__(self):
        super().__init__()
        self.visual = Visual(128)
        self.transformer = Blocks(TEXT, 3)
        self.token_embedding = nn.Embedding(VOCABULARY, TEXT)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, TEXT))
        self.ln_final = nn.LayerNorm(TEXT)
        self.text_projection = nn.Parameter(torch.randn(TEXT, COMMON))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))
        self.register_buffer("input_resolution", torch.tensor(SIZE))
        self.register_buffer("context_length", torch.tensor(LENGTH))
        self.register_buffer("vocab_size", torch.tensor(VOCABULARY))

    def forward(self, images, tokens):
        mask = torch.full((LENGTH, LENGTH), float("-inf")).triu(1)
        x = (self.token_embedding(tokens) + self.positional_embedding).permute(1, 0, 2)
        x = self.ln_final(self.transformer(x, mask).permute(1, 0, 2))
        end = x[torch.arange(len(tokens)), tokens.argmax(-1)]
        return self.visual(images), end @ self.text_projection, x


@pytest.fixture(scope="module")
def openai(tmp_path_factory):
    """(module, images, tokens, path of its archive)."""
    torch.manual_seed(0)
    module = OpenAIClip().eval()
    images, tokens = torch.randn(2, 3, SIZE, SIZE), torch.randint(1, VOCABULARY - 1, (2, LENGTH))
    tokens[:, 6] = VOCABULARY - 1
    path = tmp_path_factory.mktemp("openai") / "ViT-tiny.pt"
    torch.jit.trace(module, (images, tokens), check_trace=False).save(path)
    return module, images, tokens, path


def test_the_archives_tensors_are_those_of_the_module(openai):
    module, *_, path = openai
    found, expected = read_torchscript(path), module.state_dict()
    assert found.keys() >= expected.keys()
    for key, tensor in expected.items():
        np.testing.assert_array_equal(found[key], tensor.numpy())


@pytest.mark.parametrize("as_state_dict", [False, True])
def test_converted_it_computes_the_same_features(openai, tmp_path, as_state_dict):
    module, images, tokens, path = openai
    if as_state_dict:
        path = tmp_path / "state.pt"
        torch.save(module.state_dict(), path)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.json").write_text("{}")
    manifest = convert("openai-clip", path, tmp_path / "clip", options={"tokenizer": str(tmp_path / "tokenizer")})
    assert all(found["passed"] and found["max_difference"] == 0 for found in manifest["check"].values())
    assert (tmp_path / "clip/tokenizer.json").is_file()
    hf, info = transformers.CLIPModel.from_pretrained(tmp_path / "clip", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_same_weights(hf.state_dict(), module.state_dict())
    clip = load_clip(tmp_path / "clip")
    assert clip.config.vision.image_size == SIZE and clip.config.text.num_layers == 3
    with torch.no_grad():
        image, text, features = (x.numpy() for x in module(images, tokens))
    close = lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    close(clip.encode_image(images.numpy().transpose(0, 2, 3, 1)), image)
    ours = clip.encode_text(tokens.numpy())
    close(ours[0], features)
    close(ours[1], text)


def assert_same_weights(hf, openai):
    """Every weight of OpenAI's module is in transformers', to the bit. Written apart from the table in the package."""
    plain = {
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "logit_scale": "logit_scale",
    }
    expected = {theirs: openai[ours] for ours, theirs in plain.items()}
    expected["visual_projection.weight"] = openai["visual.proj"].T
    expected["text_projection.weight"] = openai["text_projection"].T
    for kind in ("weight", "bias"):
        expected[f"vision_model.pre_layrnorm.{kind}"] = openai[f"visual.ln_pre.{kind}"]
        expected[f"vision_model.post_layernorm.{kind}"] = openai[f"visual.ln_post.{kind}"]
        expected[f"text_model.final_layer_norm.{kind}"] = openai[f"ln_final.{kind}"]
        for tower, prefix, layers in (("vision", "visual.", 2), ("text", "", 3)):
            for i in range(layers):
                ours, theirs = f"{prefix}transformer.resblocks.{i}", f"{tower}_model.encoder.layers.{i}"
                stacked = openai[f"{ours}.attn.in_proj_{kind}"].chunk(3)
                expected |= {f"{theirs}.self_attn.{p}_proj.{kind}": part for p, part in zip("qkv", stacked)}
                expected[f"{theirs}.self_attn.out_proj.{kind}"] = openai[f"{ours}.attn.out_proj.{kind}"]
                for n in (1, 2):
                    expected[f"{theirs}.layer_norm{n}.{kind}"] = openai[f"{ours}.ln_{n}.{kind}"]
                expected[f"{theirs}.mlp.fc1.{kind}"] = openai[f"{ours}.mlp.c_fc.{kind}"]
                expected[f"{theirs}.mlp.fc2.{kind}"] = openai[f"{ours}.mlp.c_proj.{kind}"]
    found = {key: tensor for key, tensor in hf.items() if not key.endswith("position_ids")}
    assert found.keys() == expected.keys()
    for key in expected:
        assert torch.equal(found[key], expected[key]), key


def test_other_models_are_refused(openai, tmp_path):
    tensors = {key: np.zeros(1) for key in ("visual.layer1.0.conv1.weight", "text_projection")}
    with pytest.raises(ValueError, match=r"RN50\.pt: not one of OpenAI's CLIPs with a vision transformer"):
        openai_clip_config(tensors, "RN50.pt")
    assert "head.weight" in openai_to_hugging_face({"head.weight": np.zeros(1)})  # for the table to refuse
    path = tmp_path / "cut.pt"
    path.write_bytes(openai[-1].read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"cut\.pt: not a whole PyTorch archive"):
        read_tensors(path)


def test_code_in_a_torchscript_pickle_is_refused(openai, tmp_path):
    import pickle
    import zipfile

    class Stranger:
        def __reduce__(self):
            return (print, ("executed",))

    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(openai[-1]) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            evil = name.endswith("/data.pkl")
            target.writestr(name, pickle.dumps(Stranger(), protocol=2) if evil else source.read(name))
    with pytest.raises(ValueError, match=r"evil\.pt: .*it names .*print"):
        read_tensors(path)
