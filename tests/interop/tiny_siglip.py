"""A tiny random SigLIP 2 as its directories are published: Gemma's tokenizer, bilinear pictures, no crop."""

import json
from pathlib import Path

from flax import nnx
from tokenizers import Tokenizer, models, normalizers, processors, trainers

from revision_jax.interop import siglip
from revision_jax.interop.encoder import save
from revision_jax.models.siglip import SigLIP, SigLIPConfig
from revision_jax.models.towers import TextConfig, VisionConfig
from revision_jax.pretrain.tokenizer import corpus

SIZE, LENGTH = 32, 12
IMAGES = {
    "image_processor_type": "SiglipImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 1 / 255, "resample": 2,
    "size": {"height": SIZE, "width": SIZE},
}  # fmt: skip
# As google/siglip2-base-patch16-224's: no mask of the padding, and lower-cased, which Gemma's class leaves to us.
TOKENIZER = {
    "tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True, "do_lower_case": True,
    "padding_side": "right", "model_input_names": ["input_ids"], "model_max_length": 1000000000000000019884624838656,
    "pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>",
}  # fmt: skip


def make_siglip(folder: Path, width: int = 16, seed: int = 0) -> Path:
    """Features and text tokens of `width`, pictures of 32 pixels, texts of 12 tokens."""
    tower = {"hidden_size": width, "intermediate_size": 32, "num_layers": 2, "num_heads": 2}
    tower |= {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokenizer.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    text = TextConfig(**tower, vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=LENGTH)
    vision = VisionConfig(**tower, image_size=SIZE, patch_size=16)
    save(siglip.KIND, SigLIP(SigLIPConfig(vision, text, width), rngs=nnx.Rngs(seed)), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    (folder / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    return folder
